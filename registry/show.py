"""What the registry's commands print: tables of datasets and of findings, for a terminal."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from covidseg.registry.check import CheckReport
from covidseg.registry.dataset import Dataset, by_layout
from covidseg.registry.find import FoundDatasets
from covidseg.registry.findings import SEVERITIES, Finding, Severity

_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_SHOWN_A_KIND = 5


def datasets_table(datasets: Sequence[Dataset], found: FoundDatasets | None) -> RenderableType:
    """One row a dataset: cases found of those published, licence, tasks, and how to get it."""
    table = Table(
        title="PHANTOM data" if found is not None and found.phantom else None,
        caption="covidseg download NAME fetches what is open and prints the steps for the rest",
    )
    table.add_column("dataset", style="bold", overflow="fold")
    table.add_column("cases" if found is None else "cases found", no_wrap=True)
    table.add_column("licence", overflow="fold")
    table.add_column("serves", overflow="fold")
    table.add_column("to get it")
    for entry in datasets:
        licence = Text(entry.licence.name)
        if not entry.licence.redistributable:
            licence.append("\nnot to be passed on", style="yellow")
        table.add_row(
            f"{entry.key}\n[not bold dim]{escape(entry.title)}[/]",
            _cohorts(entry, found),
            licence,
            "\n".join(entry.tasks),
            _source(entry),
        )
    return table


def _cohorts(entry: Dataset, found: FoundDatasets | None) -> Text:
    text = Text()
    counts: Counter[str] = Counter() if found is None else found.counts(entry.key)
    for cohort in dict.fromkeys((*entry.expected_counts, *counts)):
        expected = entry.expected_counts.get(cohort)
        held = counts[cohort]
        if text:
            text.append("\n")
        if found is None:
            text.append(f"{expected} {cohort}")
        elif expected is None:
            text.append(f"{held} {cohort}")
        else:
            style = "green" if held >= expected else "yellow" if held else "dim"
            text.append(f"{held} of {expected} {cohort}", style=style)
    return text


def _source(entry: Dataset) -> str:
    if not entry.downloads:
        return "by hand"
    return "download, rest by hand" if entry.steps else "download"


def download_notes(entry: Dataset, out: Path) -> RenderableType:
    """What is left to do by hand for a dataset, its terms, and what to cite."""
    lines: list[RenderableType] = []
    if entry.steps:
        what = "The rest of" if entry.downloads else ""
        title = f"{what} {entry.title} cannot be fetched for you. To get it:".strip()
        lines.append(Text(title, style="bold"))
        steps = Table.grid(padding=(0, 1))
        for number, step in enumerate(entry.steps, 1):
            steps.add_row(f"  {number}.", Text(step, overflow="fold"))
        lines.append(steps)
    licence = entry.licence
    terms = Text(f"Licence: {licence.name} ({licence.url})")
    if not licence.redistributable:
        terms.append("; not to be passed on", style="yellow")
    lines.append(terms)
    if licence.note:
        lines.append(Text(f"  {licence.note}", style="dim"))
    lines.append(Text("Please cite:"))
    lines += [
        Text(f"  {citation.text} {citation.url}", overflow="fold") for citation in entry.citations
    ]
    lines.append(Text(f"Then: covidseg check {out}", style="bold"))
    return Group(*lines)


def check_summary(report: CheckReport) -> RenderableType:
    """The table at the end of a check, then its findings, worst first."""
    return Group(
        _check_table(report), *_grouped(report.findings, report.found.root), _verdict(report)
    )


def _check_table(report: CheckReport) -> Table:
    from covidseg.registry.datasets import DATASETS

    found = report.found
    table = Table(title="PHANTOM data" if found.phantom else None)
    table.add_column("dataset", style="bold", no_wrap=True)
    table.add_column("layout")
    table.add_column("cases found", no_wrap=True)
    for heading in ("files", "size", "errors", "warnings", "notes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for key in found.present():
        layouts = by_layout(found.of(key))
        table.add_row(
            key,
            ", ".join(layouts),
            _cohorts(DATASETS[key], found),
            f"{report.files[key]:,}",
            size_of(report.bytes[key]),
            *(_number(report.count(severity, key), severity) for severity in SEVERITIES),
        )
    return table


def _number(count: int, severity: Severity) -> Text:
    return Text(str(count), style=_STYLES[severity] if count else "dim")


def _grouped(findings: Sequence[Finding], root: Path) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for severity in SEVERITIES:
        chosen = [finding for finding in findings if finding.severity == severity]
        if not chosen:
            continue
        heading = f"\n{len(chosen)} {severity}{'s' if len(chosen) > 1 else ''}"
        lines.append(Text(heading, style=_STYLES[severity]))
        kinds: dict[tuple[str, str], list[Finding]] = defaultdict(list)
        for finding in chosen:
            kinds[finding.dataset, finding.kind].append(finding)
        grid = Table.grid(padding=(0, 1))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for (dataset, kind), group in kinds.items():
            for finding in group[:_SHOWN_A_KIND]:
                grid.add_row(f"  {kind}", _told(finding, root))
            if len(group) > _SHOWN_A_KIND:
                where = f" of {dataset}" if dataset else ""
                left = len(group) - _SHOWN_A_KIND
                grid.add_row("", Text(f"... and {left} more {kind}{where}", style="dim"))
        lines.append(grid)
    return lines


def _told(finding: Finding, root: Path) -> Text:
    """A finding in up to three lines: where, what, and what to do."""
    where = finding.file or " ".join(filter(None, (finding.dataset, finding.case_id)))
    with contextlib.suppress(ValueError):
        where = str(Path(where).relative_to(root))
    text = Text(where, style="bold").append(f"\n{finding.found}", style="not bold")
    if finding.remedy:
        text.append(f"\n-> {finding.remedy}", style="not bold dim")
    return text


def _verdict(report: CheckReport) -> Text:
    cases = len(report.cases)
    noun = f"{cases:,} case{'' if cases == 1 else 's'} read whole"
    if report.ok:
        return Text(f"\n{noun}; no errors.", style="green")
    errors = report.count("error")
    return Text(f"\n{noun}; {errors} error{'s' if errors > 1 else ''}.", style="bold red")


def size_of(count: int) -> str:
    """A number of bytes for people."""
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def console(*, stderr: bool = False) -> Console:
    """A console that does not fold paths: a path that is broken over lines cannot be copied."""
    return Console(stderr=stderr, soft_wrap=False, highlight=False, emoji=False)

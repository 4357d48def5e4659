"""What `covidseg check` prints: a line a dataset, then what was found, worst first."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from covidseg.registry.check import CheckReport
from covidseg.registry.dataset import by_layout
from covidseg.registry.datasets import DATASETS
from covidseg.registry.findings import SEVERITIES, Finding, Severity
from covidseg.registry.show import cohorts

_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_SHOWN_A_KIND = 5


def check_summary(report: CheckReport) -> RenderableType:
    """The table at the end of a check, then its findings, worst first."""
    return Group(
        _check_table(report), *_grouped(report.findings, report.found.root), _verdict(report)
    )


def _check_table(report: CheckReport) -> Table:
    found = report.found
    table = Table(
        title="PHANTOM data" if found.phantom else None, box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("dataset", style="bold", no_wrap=True)
    table.add_column("cases found", no_wrap=True)
    for heading in ("files", "size", "errors", "warnings", "notes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for key in found.present():
        layouts = by_layout(found.of(key))
        table.add_row(
            f"{key}\n[not bold dim]{escape(', '.join(layouts))}[/]",
            cohorts(DATASETS[key], found),
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

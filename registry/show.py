"""What `covidseg datasets` and `covidseg download` print."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from covidseg.registry.dataset import Dataset
from covidseg.registry.find import FoundDatasets

_SHOWN = 5


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
            cohorts(entry, found),
            licence,
            "\n".join(entry.tasks),
            _source(entry),
        )
    return table


def cohorts(entry: Dataset, found: FoundDatasets | None) -> Text:
    """Cases of each cohort, one a line: found of those published, or as many as were published."""
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


def not_counted(found: FoundDatasets) -> list[str]:
    """One line for all that is there twice or was not counted, of many of a kind the first five."""
    kinds = {
        "twice": [str(duplicate) for duplicate in found.duplicates],
        "cannot be listed": [f"{path} ({reason})" for path, reason in found.unreadable],
        "damaged DICOM": [str(path) for path in found.damaged],
        "archive, only what is extracted counts": [str(path) for path in found.packed()],
        "repository, passed over": [str(path) for path in found.repositories],
        "predictions, passed over": [
            f"{one.files} in {one.folder}"
            + (" (its predictions.json cannot be read)" if not one.recorded else "")
            for one in found.predictions
        ],
    }
    lines = []
    for kind, entries in kinds.items():
        lines += [f"{kind}: {entry}" for entry in entries[:_SHOWN]]
        if len(entries) > _SHOWN:
            lines.append(f"{kind}: ... and {len(entries) - _SHOWN} more")
    return lines


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


def console(*, stderr: bool = False) -> Console:
    """A console that does not fold paths: a path that is broken over lines cannot be copied."""
    stream = sys.stderr if stderr else sys.stdout
    # In a file or a pipe there is no edge to break lines at; rich would take 80 columns.
    width = None if stream.isatty() or "COLUMNS" in os.environ else 160
    return Console(stderr=stderr, width=width, soft_wrap=False, highlight=False, emoji=False)

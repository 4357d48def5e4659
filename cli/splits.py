"""``covidseg splits``: list, show and audit the canonical splits."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from covidseg.splits.audit import Leak, Place
    from covidseg.splits.findings import Findings
    from covidseg.splits.records import CaseRecord

_GROUP = """Show the canonical splits and audit them for leaks.

A split is known by its configuration, the name that load_dataset takes: task1-infection-fold0,
task2-nsclc-lung, task3-msd-tumour-fold4, covid1920-fold1. With the suffix -clean it is the
patient-clean variant: the same without the cases by which the published split leaks.
"""

Reason = TypeVar("Reason", bound=Hashable)

_Root = Annotated[
    Path | None,
    typer.Option(
        help="Folder with your downloads, for what only they know: the names of COVID-19-20's "
        "scans; for the audit, also patients, DICOM series and the content of every "
        "image of the split's datasets.",
        show_default=False,
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def add_to(app: typer.Typer) -> None:
    """Hang the subcommand into the console command."""
    group = typer.Typer(
        help=_GROUP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    group.command("list")(list_)
    group.command("show")(show)
    group.command("audit")(audit)
    app.add_typer(group, name="splits")


def list_(
    task: Annotated[
        str | None,
        typer.Argument(help="task1, task1-reverse, task2, task3, ...", show_default=False),
    ] = None,
    root: _Root = None,
    as_json: _Json = False,
) -> None:
    """List the configurations: what each is, and how many cases its parts have.

    Parts that are named by the files on disk alone are counted only with --root.

    Example: covidseg splits list task2
    """
    from covidseg.core.errors import ConfigError, SplitError
    from covidseg.splits import tasks
    from covidseg.splits.load import has_clean_variant, published_parts

    names = tasks.configurations(task)
    if not names:
        raise ConfigError(
            f"there is no task {task!r}",
            expected="one of " + ", ".join(sorted({s.task for s in tasks.SUBTASKS})),
        )
    records = _records(root, names)
    rows: list[dict[str, Any]] = []
    for name in names:
        subtask, _ = tasks.configuration(name)
        row: dict[str, Any] = {"configuration": name, "title": subtask.title}
        try:
            parts = published_parts(name, records)
            row["parts"] = {part: len(cases) for part, cases in parts.items()}
            row["clean"] = has_clean_variant(name, records)
        except SplitError:
            row["parts"] = dict.fromkeys(subtask.parts)
            row["clean"] = None
        rows.append(row)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    width = max(len(row["configuration"]) for row in rows)
    for row in rows:
        counts = ", ".join(
            f"{part} {'?' if count is None else count}" for part, count in row["parts"].items()
        )
        clean = "   also -clean" if row["clean"] else ""
        typer.echo(f"{row['configuration']:<{width}}  {counts}{clean}")
    if any(row["clean"] is None for row in rows):
        typer.echo("?: counted from the cases on disk; name their folder with --root.")


def show(
    name: Annotated[str, typer.Argument(help="A configuration, such as task1-infection-fold0.")],
    root: _Root = None,
    as_json: _Json = False,
) -> None:
    """Print the cases of each part of a configuration, and what its annotations mean.

    Example: covidseg splits show task1-infection-fold2-clean
    """
    from covidseg.splits.load import load_split

    split = load_split(name, records=_records(root, [name]), partial=True)
    subtask = split.subtask
    if as_json:
        content = {
            "configuration": split.configuration,
            "title": subtask.title,
            "variant": split.variant,
            "sha256": split.sha256,
            "targets": subtask.targets,
            "parts": {p: [case._asdict() for case in cases] for p, cases in split.parts.items()},
            "faults": [_as_dict(leak) for leak in split.faults],
            "removed": [_as_dict(leak) for leak in split.removed],
            "refused": [_as_dict(leak) for leak in split.refused],
            "incomplete": split.incomplete or None,
        }
        typer.echo(json.dumps(content, indent=1))
        return
    typer.echo(f"{split.configuration}: {subtask.title} ({split.variant})")
    targets = ", ".join(f"{value} {label}" for value, label in subtask.targets.items())
    typer.echo(f"a prediction's values: {targets}")
    if split.incomplete:
        typer.echo(f"NOT THE PUBLISHED SPLIT: {split.incomplete}")
    for part, cases in split.parts.items():
        typer.echo(f"\n{part}: {len(cases)} cases")
        for annotation in subtask.parts[part]:
            own = [case.case_id for case in cases if case.dataset == annotation.dataset]
            meaning = ", ".join(
                label if label == target else f"{label} as {target}"
                for label, target in annotation.meaning.items()
            )
            typer.echo(f"  {annotation.dataset} {annotation.name} ({meaning}): {len(own)}")
            typer.echo("    " + " ".join(own))
    for title, leaks in (
        ("known faults of the published split", split.faults),
        ("left out, since", split.removed),
        ("not taken into the unlabelled pool, since", split.refused),
    ):
        if leaks:
            typer.echo(f"\n{title}:")
            for leak in leaks:
                typer.echo(f"  {leak}")


def audit(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WHAT]...",
            help="Tasks, configurations, or JSON or CSV files with splits of your own. "
            "Without any, all canonical splits.",
            show_default=False,
        ),
    ] = None,
    root: _Root = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=1, help="Processes that read images.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Look for the same scan, patient, DICOM series or pixels on both sides of a split.

    Each configuration is audited alone, and with the others of its task and fold, since a model
    may learn from several. What is a known fault of the published lists is told apart; any other
    leak makes the exit status 1. Your own file is JSON ({"train": [...], "test": [...]}, or
    nnU-Net's splits_final.json) or CSV (columns part and case_id; optionally fold, dataset,
    patient_id, series_uid, content_hash).

    Examples: covidseg splits audit task2; covidseg splits audit my_split.json --root data/raw
    """
    from covidseg.core.errors import ConfigError
    from covidseg.splits import tasks
    from covidseg.splits.findings import Findings, audit_files, audit_tasks
    from covidseg.splits.load import CLEAN_SUFFIX
    from covidseg.splits.userfile import read_split_file

    configurations: list[str] = []
    files: list[Path] = []
    for word in what or sorted({subtask.task for subtask in tasks.SUBTASKS}):
        if known := tasks.configurations(word):
            configurations += known
        elif Path(word).is_file():
            files.append(Path(word))
        elif word.endswith(CLEAN_SUFFIX):
            raise ConfigError(
                f"{word} is without leaks by construction",
                remedy=f"audit {word.removesuffix(CLEAN_SUFFIX)}; `covidseg splits show {word}` "
                "lists what was left out",
            )
        elif word.lower().endswith((".json", ".csv")):
            raise ConfigError("there is no such file", path=word)
        else:
            tasks.configuration(word)
            configurations.append(word)
    splits = {file: read_split_file(file) for file in files}
    used = _used(configurations) + [
        record.dataset
        for named in splits.values()
        for parts in named.values()
        for cases in parts.values()
        for record in cases
    ]
    records, unread = _read(root, workers, used)
    findings = Findings([], [], {})
    if configurations:
        findings = audit_tasks(configurations, records)
    for file, named in splits.items():
        own = audit_files(named, records)
        findings.audited += [f"{file}: {name}" for name in own.audited]
        findings.leaks += own.leaks
        findings.unmatched |= {f"{file}: {name}": lost for name, lost in own.unmatched.items()}
    if as_json:
        content = {
            "audited": findings.audited,
            "skipped": findings.skipped,
            "unread": unread,
            "unmatched": findings.unmatched,
            "leaks": [_as_dict(leak) for leak in findings.leaks],
        }
        typer.echo(json.dumps(content, indent=1))
    else:
        _print(findings, unread, root is not None)
    if findings.unexpected:
        raise typer.Exit(1)


def _records(root: Path | None, configurations: list[str]) -> list[CaseRecord] | None:
    if root is None:
        return None
    from covidseg.registry.hub_records import find_records

    return find_records(root, _used(configurations))


def _read(
    root: Path | None, workers: int | None, used: list[str]
) -> tuple[list[CaseRecord] | None, list[str]]:
    """Records of the datasets ``used``; a name that the registry does not have has no files."""
    if root is None:
        return None, []
    from covidseg.registry.datasets import DATASETS
    from covidseg.registry.hub_records import read_records
    from covidseg.registry.tree import walk

    if known := [key for key in DATASETS if key in used]:
        return read_records(root, known, workers=workers)
    walk(root)  # raises where there is no such folder
    return [], []


def _used(configurations: list[str]) -> list[str]:
    """The datasets that configurations are made of: what is wrong with others is no matter here."""
    from covidseg.splits import tasks
    from covidseg.splits.load import CLEAN_SUFFIX

    subtasks = [tasks.configuration(name.removesuffix(CLEAN_SUFFIX))[0] for name in configurations]
    return sorted({a.dataset for s in subtasks for used in s.parts.values() for a in used})


def _print(findings: Findings, unread: list[str], with_root: bool) -> None:
    known = [leak for leak in findings.leaks if leak.fault]
    compared = "scans and patients"
    if with_root:
        compared = "scans, patients, DICOM series and content"
        if unread or findings.unmatched:
            compared += ", the latter two not of all cases (see below)"
    typer.echo(f"{len(findings.audited)} splits audited by {compared}.")
    for title, leaks in (
        ("Leaks", findings.unexpected),
        ("Known faults of the published splits", known),
    ):
        if not leaks:
            continue
        typer.echo(f"\n{title}:")
        for line in _grouped(leaks):
            typer.echo(line)
    for reason, names in _by_reason(findings.skipped).items():
        typer.echo(f"\n{_some(names)} not audited: {reason}")
    for line in unread:
        typer.echo(f"\nnot compared by content: {line}")
    for lost, names in _by_reason(
        {name: tuple(cases) for name, cases in findings.unmatched.items()}
    ).items():
        typer.echo(
            f"\nnot compared by content: {len(lost)} cases of {_folds(names)}, of which no file is"
            f" known below --root ({_some(list(lost))})"
        )
    typer.echo(
        f"\nPairs of cases that leak: {len(findings.unexpected)}; known faults: {len(known)}."
    )


def _grouped(leaks: list[Leak]) -> list[str]:
    """A few lines for all pairs that leak in the same way in the same configurations."""
    places: dict[tuple[Any, ...], list[str]] = {}
    for leak in leaks:
        first, second = leak.first, leak.second
        where = first.configuration
        if where != second.configuration:
            where += f" against {second.configuration}"
        same = str(leak).rpartition(": ")[2]
        pair = (first.part, second.part, same, leak.fault, first.case, second.case)
        places.setdefault(pair, []).append(where)
    pairs: dict[tuple[Any, ...], list[str]] = {}
    for (part, other_part, same, fault, case, other), configurations in places.items():
        names = str(case) if case == other else f"{case} and {other}"
        kind = (part, other_part, same, fault, _folds(configurations))
        pairs.setdefault(kind, []).append(names)
    lines = []
    for (part, other_part, same, fault, inside), cases in pairs.items():
        why = f": {fault}" if fault else ""
        lines += [
            f"- {same} in {part} and {other_part}{why}",
            f"    in     {inside}",
            f"    cases  {_some(cases)}",
        ]
    return lines


def _folds(configurations: list[str]) -> str:
    """Names of configurations, with one for all five folds where all are there."""
    stems: dict[str, list[str]] = {}
    for name in configurations:
        stems.setdefault(re.sub(r"-fold\d", "-fold*", name), []).append(name)
    return _some(
        [n for stem, names in stems.items() for n in ([stem] if len(names) == 5 else names)]
    )


def _by_reason(by_name: Mapping[str, Reason]) -> dict[Reason, list[str]]:
    reasons: dict[Reason, list[str]] = {}
    for name, reason in by_name.items():
        reasons.setdefault(reason, []).append(name)
    return reasons


def _some(names: list[str], shown: int = 5) -> str:
    if len(names) <= shown + 1:
        return ", ".join(names)
    return f"{', '.join(names[:shown])} and {len(names) - shown} more"


def _as_dict(leak: Leak) -> dict[str, Any]:
    def place(where: Place) -> dict[str, str]:
        return {
            "configuration": where.configuration,
            "part": where.part,
            "dataset": where.case.dataset,
            "case_id": where.case.case_id,
        }

    return {
        "kind": leak.kind,
        "certainty": leak.certainty,
        "value": leak.value,
        "first": place(leak.first),
        "second": place(leak.second),
        "known_fault": leak.fault or None,
    }

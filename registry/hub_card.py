"""The repository's card: what `datasets` reads (YAML) and what a person reads (text)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from covidseg.registry.cases import Case
from covidseg.registry.datasets import DATASETS
from covidseg.registry.hub_configurations import Configuration

PHANTOM_NOTICE = (
    "These are phantoms: procedural drawings under the names of real scans, for trying out and"
    " testing software. They are no patient data, and no result on them says anything about"
    " patients."
)


def parquet_name(configuration: str, part: str) -> str:
    """File of one part of a configuration, at the top: volumes are named from its folder."""
    return f"{configuration}_{part}.parquet"


def front_matter(
    configurations: list[Configuration], hashes: Mapping[str, str], phantom: bool
) -> str:
    """The YAML between the card's two rules.

    ``hashes`` is the content of each configuration. It stands in the description because
    `datasets` makes the key of its cache from this text and not from the files: without it, a
    rebuild with other cases would return the rows of the first.
    """
    card = {
        "pretty_name": "COVID-19 CT segmentation benchmark" + (" (phantoms)" if phantom else ""),
        "license": "other",
        "task_categories": ["image-segmentation"],
        "tags": ["medical", "ct", "covid-19", "lung", *(["phantom"] if phantom else [])],
        "configs": [_entry(made, hashes[made.name]) for made in _builder_first(configurations)],
    }
    return yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=1000)


def _entry(made: Configuration, content: str) -> dict[str, Any]:
    return {
        "config_name": made.name,
        "description": f"{made.title} (content {content})",
        "data_files": [
            {"split": part, "path": [parquet_name(made.name, part), *_globs(rows)]}
            for part, rows in made.parts.items()
        ],
        "metadata_filenames": [parquet_name(made.name, part) for part in made.parts],
        "drop_labels": True,
    }


def _globs(rows: list[dict[str, Any]]) -> list[str]:
    """Folders of the part's volumes as patterns: hundreds of names would be read in each load."""
    folders = dict.fromkeys(file.rpartition("/")[0] for file in _files(rows))
    globs = [f"{folder}/*" for folder in folders]
    # A lone volume would count no more than the parquet file; named twice, it does.
    return globs * 2 if len(_files(rows)) == 1 else globs


def _builder_first(configurations: list[Configuration]) -> list[Configuration]:
    """The configuration that shows best what the repository holds comes first.

    `datasets` chooses one reader for a repository by counting the file types in each part of the
    first configuration; volumes must outnumber the one parquet file in all of them.
    """
    first = max(configurations, key=_fewest_volumes)
    for made in configurations:
        if _fewest_volumes(made) > 1:
            first = made
            break
    return [first, *(made for made in configurations if made is not first)]


def _fewest_volumes(made: Configuration) -> int:
    return min(len(_files(rows)) for rows in made.parts.values())


def _files(rows: list[dict[str, Any]]) -> list[str]:
    return [v for row in rows for k, v in row.items() if k.endswith("_file_name") and v]


def text(
    configurations: list[Configuration],
    left_out: Mapping[str, str],
    cases: list[Case],
    withheld: list[str],
    phantom: bool,
) -> str:
    """The card's text: what is in it, where it is from, its licences, how to cite it."""
    title = "# COVID-19 CT segmentation: lungs and lesions with few labels"
    blocks = [title + (" (phantoms)" if phantom else "")]
    if phantom:
        blocks.append(f"> **{PHANTOM_NOTICE}**")
    first = configurations[0]
    part = next(iter(first.parts))
    # Of datasets that may not be passed on there are rows alone, and then no column of images.
    volumes = _fewest_volumes(first) > 0
    blocks += [
        "Cases and splits of the COVID-19-CT-Seg benchmark, COVID-19-20 and COVID-SemiSeg, as"
        " written by `covidseg build`. With stock `datasets` and `nibabel`, and `covidseg` not"
        " installed:",
        "```python\nfrom datasets import load_dataset\n\n"
        f'rows = load_dataset("path/to/this/folder", "{first.name}", split="{part}")\n'
        + ('image = rows[0]["image"].get_fdata()\n' if volumes else 'shape = rows[0]["shape"]\n')
        + "```",
        "`label_names` says what a label file's values mean, `target_names` what a prediction's do,"
        " and `label_to_target` which becomes which; `intensity` says what scale the image is on."
        " Patient-clean variants end in `-clean`.",
        "## Datasets",
        _datasets_table(cases, withheld),
        "## Configurations",
        _configurations_table(configurations),
    ]
    if left_out:
        blocks += [
            "Left out:",
            "\n".join(f"- `{name}`: {reason}" for name, reason in grouped(left_out).items()),
        ]
    blocks += ["## Citation", "Cite the datasets that you use:", _citations(cases)]
    return "\n\n".join(blocks) + "\n"


def _datasets_table(cases: list[Case], withheld: list[str]) -> str:
    lines = ["| dataset | cases | licence | volumes here |", "|---|---|---|---|"]
    for key, dataset in DATASETS.items():
        count = sum(case.dataset == key for case in cases)
        if not count:
            continue
        licence = dataset.licence
        here = "no, metadata only" if key in withheld else "yes"
        note = f" {licence.note}" if licence.note else ""
        lines.append(
            f"| [{dataset.title}]({dataset.homepages[0]}) (`{key}`) | {count} |"
            f" [{licence.name}]({licence.url}).{note} | {here} |"
        )
    return "\n".join(lines)


def _configurations_table(configurations: list[Configuration]) -> str:
    lines = ["| configuration | what | parts | notes |", "|---|---|---|---|"]
    for made in configurations:
        parts = ", ".join(f"{part} {len(rows)}" for part, rows in made.parts.items())
        lines.append(f"| `{made.name}` | {made.title} | {parts} | {'; '.join(made.notes)} |")
    return "\n".join(lines)


def grouped(left_out: Mapping[str, str]) -> dict[str, str]:
    """Folds that are left out for one reason as one line."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for name, reason in left_out.items():
        stem, fold, _ = name.partition("-fold")
        by_reason.setdefault((stem + fold, reason), []).append(name)
    return {
        names[0] if len(names) == 1 else f"{stem}* ({len(names)})": reason
        for (stem, reason), names in by_reason.items()
    }


def _citations(cases: list[Case]) -> str:
    held = {case.dataset for case in cases}
    return "\n".join(
        f"- {citation.text}" + (f" <{citation.url}>" if citation.doi else "")
        for key, dataset in DATASETS.items()
        if key in held
        for citation in dataset.citations
    )

"""The rows of a dataset repository: one case of one part, with all that a user needs to know."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from covidseg.registry.cases import Case
from covidseg.registry.datasets import DATASETS
from covidseg.registry.hub_volumes import Annotated, Notes
from covidseg.splits.tasks import Annotation

_STRING = pa.string()
_NAMED_VALUES = pa.list_(pa.struct([("value", pa.int32()), ("name", _STRING)]))

# Columns of a case; those of its label or labels come between image and these. A `*_file_name` is
# what the niftifolder builder of `datasets` turns into a volume. Types are explicit, because a
# column that is empty in one split would otherwise get another type there.
_CASE_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("case_id", _STRING),
    ("patient_id", _STRING),
    ("dataset", _STRING),
    ("cohort", _STRING),
    ("source", _STRING),
    ("shape", pa.list_(pa.int32())),
    ("spacing_mm", pa.list_(pa.float64())),
    ("affine", pa.list_(pa.list_(pa.float64()))),
    (
        "intensity",
        pa.struct([("scale", _STRING), ("window_hu", pa.list_(pa.float64()))]),
    ),
    ("licence", _STRING),
    ("phantom", pa.bool_()),
    ("series_uid", _STRING),
    ("image_content_hash", _STRING),
]
_LABEL_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("annotation", _STRING),
    ("label_names", _NAMED_VALUES),
    ("target_names", _NAMED_VALUES),
    ("label_to_target", pa.list_(pa.struct([("value", pa.int32()), ("target", pa.int32())]))),
    ("label_content_hash", _STRING),
]
_ANNOTATIONS_COLUMN: tuple[str, pa.DataType] = (
    "annotation_labels",
    pa.list_(pa.struct([("annotation", _STRING), ("value", pa.int32()), ("name", _STRING)])),
)


def schema(annotations: list[str] | None = None, *, label: bool = True) -> pa.Schema:
    """Columns of a configuration: with a ``label``, and with a column for each of ``annotations``.

    A task's configuration has the label that its task trains or tests with. A dataset's own has
    every annotation of the dataset, each under its name.
    """
    columns: list[tuple[str, pa.DataType]] = [("image_file_name", _STRING)]
    if label:
        columns.append(("label_file_name", _STRING))
    columns += [(f"{name}_file_name", _STRING) for name in annotations or ()]
    columns += _CASE_COLUMNS
    if label:
        columns += _LABEL_COLUMNS
    if annotations:
        columns.append(_ANNOTATIONS_COLUMN)
    return pa.schema(columns)


def case_columns(case: Case, notes: Notes, phantom: bool) -> dict[str, Any]:
    """What a row says of its scan."""
    window = case.intensity.window_hu
    return {
        "image_file_name": notes.file,
        "case_id": case.case_id,
        "patient_id": case.patient_id,
        "dataset": case.dataset,
        "cohort": case.cohort,
        "source": case.source,
        "shape": notes.shape,
        "spacing_mm": notes.spacing_mm,
        "affine": notes.affine,
        "intensity": {
            "scale": case.intensity.scale,
            "window_hu": list(window) if window else None,
        },
        "licence": DATASETS[case.dataset].licence.name,
        "phantom": phantom,
        "series_uid": notes.series_uid,
        "image_content_hash": notes.content_hash,
    }


def label_columns(
    annotation: Annotation, annotated: Annotated | None, targets: dict[int, str]
) -> dict[str, Any]:
    """What a row says of its label, and how its values become the task's: others are background."""
    value_of = {name: value for value, name in targets.items()}
    target_names = [{"value": value, "name": name} for value, name in sorted(targets.items())]
    if annotated is None:
        return {"target_names": target_names, "label_names": [], "label_to_target": []}
    labels = sorted(annotated.labels.items())
    return {
        "label_file_name": annotated.file,
        "annotation": annotation.name,
        "label_names": [{"value": value, "name": name} for value, name in labels],
        "target_names": target_names,
        "label_to_target": [
            {"value": value, "target": value_of.get(annotation.meaning.get(name, ""), 0)}
            for value, name in labels
        ],
        "label_content_hash": annotated.content_hash,
    }


def annotation_columns(notes: Notes, annotations: list[str]) -> dict[str, Any]:
    """Every annotation of a case under its own name, for the dataset's own configuration."""
    held = {name: notes.annotations[name] for name in annotations if name in notes.annotations}
    return {
        **{f"{name}_file_name": entry.file for name, entry in held.items()},
        "annotation_labels": [
            {"annotation": name, "value": value, "name": label}
            for name, entry in held.items()
            for value, label in sorted(entry.labels.items())
        ],
    }


def to_parquet(rows: list[dict[str, Any]], columns: pa.Schema) -> bytes:
    """A parquet file of the rows; equal rows give equal bytes."""
    table = pa.Table.from_pylist(rows, schema=columns)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()

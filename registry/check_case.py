"""Verifying one case: every file of it is read once, and each array is looked at in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from covidseg.core.errors import CovidsegError
from covidseg.imaging.content import oriented_content_hash
from covidseg.imaging.dicom import DicomSeries, read_series
from covidseg.imaging.geometry import grids_agree, reoriented_affine
from covidseg.imaging.intensity import find_nonfinite, guess_scale
from covidseg.imaging.nifti import read_header
from covidseg.imaging.volume import Volume
from covidseg.registry.cases import Case, Mask
from covidseg.registry.findings import CaseCheck, Finding, Severity, from_error
from covidseg.registry.labels import (
    check_labels,
    count_values,
    lungs_exchanged,
    sides_by_centroid,
)
from covidseg.registry.read import (
    bring_onto,
    ct_series,
    rasterise_structures,
    read_image,
    read_stored_mask,
)

# Chest CT, with room to spare: in plane 0.25 to 1.5 mm, slices 0.3 to 10 mm (small phantoms more).
_SPACING_MM = (0.2, 12.0)
# For centroids every fourth voxel along each axis says as much as all of them.
_STRIDE = 4


def check_case(case: Case) -> CaseCheck:
    """Read the image and all masks of a case and say what is wrong with them.

    Never raises one of the project's errors: each becomes a finding, and the other files are
    checked all the same.
    """
    check = CaseCheck(facts={"masks": {}})
    image, series = _check_image(case, check)
    for name, mask in case.masks.items():
        _measure(mask.path, check)
        try:
            check.facts["masks"][name] = _check_mask(case, name, mask, image, series, check)
        except CovidsegError as fault:
            check.findings.append(
                from_error(fault, dataset=case.dataset, case_id=case.case_id, file=str(mask.path))
            )
    return check


def _check_image(case: Case, check: CaseCheck) -> tuple[Volume | None, DicomSeries | None]:
    _measure(case.image, check)
    try:
        series = ct_series(case)
        image = read_series(series) if series else read_image(case)
    except CovidsegError as fault:
        check.findings.append(
            from_error(fault, dataset=case.dataset, case_id=case.case_id, file=str(case.image))
        )
        return None, None
    check.facts.update(
        shape=list(image.shape),
        spacing_mm=[round(spacing, 6) for spacing in image.spacing_mm],
        orientation=image.orientation,
        dtype=str(image.data.dtype),
        content_hash=oriented_content_hash(image),
    )
    if series is not None:
        check.facts["series_uid"] = series.uid
    check.findings += _image_findings(case, image, check)
    return image, series


def _image_findings(case: Case, image: Volume, check: CaseCheck) -> Iterator[Finding]:
    def finding(severity: Severity, kind: str, found: str, remedy: str) -> Finding:
        return Finding(severity, kind, case.dataset, found, case.case_id, str(case.image), remedy)

    if nonfinite := find_nonfinite(image.data):
        yield finding("error", "not-finite", f"holds {nonfinite}", "download or extract it again")
    guess = guess_scale(image.data)
    check.facts.update(minimum=guess.minimum, maximum=guess.maximum)
    declared = case.intensity.scale
    if guess.scale == "constant":
        yield finding("error", "intensity", guess.reason, "download or extract it again")
    elif declared == "picture":
        pass
    elif guess.scale == "unknown":
        yield finding(
            "warning",
            "intensity",
            f"{guess.reason}; expected {declared}",
            "look at it: a scan of little lung, or of another kind",
        )
    elif guess.scale != declared:
        yield finding(
            "error",
            "intensity",
            f"is on the scale {guess.scale!r} ({guess.reason}); expected {declared!r}",
            "take the file from the dataset's own download, or bring it onto that scale",
        )
    if declared == "picture":
        return
    low, high = _SPACING_MM
    if not all(low <= spacing <= high for spacing in image.spacing_mm):
        spacing = " x ".join(f"{value:g}" for value in image.spacing_mm)
        yield finding(
            "warning",
            "spacing",
            f"has a spacing of {spacing} mm, unlike a chest CT",
            "check the header against the dataset's own download",
        )
    if case.image_format == "nifti" and (conflict := read_header(case.image).form_conflict):
        yield finding(
            "warning", "header", conflict, "check its orientation against another program"
        )


def _check_mask(
    case: Case,
    name: str,
    mask: Mask,
    image: Volume | None,
    series: DicomSeries | None,
    check: CaseCheck,
) -> dict[str, int]:
    """Findings of one mask go to ``check``; the voxel counts by label are returned."""

    def add(severity: Severity, kind: str, found: str, remedy: str) -> None:
        check.findings.append(
            Finding(severity, kind, case.dataset, found, case.case_id, str(mask.path), remedy)
        )

    if mask.format == "rtstruct":
        if image is None:
            return {}
        drawn = image.with_data(rasterise_structures(case, mask, image, series))
        counts = count_values(drawn.data)
    else:
        drawn = read_stored_mask(mask)
        counts = count_values(drawn.data)
        check_labels(counts, mask)
        if image is not None:
            _check_grid(case, mask, drawn, image, check)
    by_value = _values_by_label(drawn, mask, counts)
    by_label = {
        label: int(counts.get(value, 0)) if mask.threshold is None else _above(counts, mask)
        for label, value in by_value.items()
    }
    if not any(by_label.values()):
        add("warning", "empty-mask", f"is empty: no voxel of {name}", "look at the scan")
    elif name in ("lung", "lung_and_infection", "organs"):
        absent = [label for label in ("left_lung", "right_lung") if by_label.get(label) == 0]
        if absent:
            add("warning", "empty-mask", f"has no voxel of {absent[0]}", "look at the scan")
    if mask.sides != "by_centroid":
        wrong = lungs_exchanged(drawn, mask.labels, _STRIDE)
        if wrong:
            add(
                "error" if mask.sides == "verified" else "warning",
                "sides",
                wrong,
                "find out whether this copy exchanges the labels or the affine, and correct it",
            )
    return by_label


def _values_by_label(mask: Volume, source: Mask, counts: dict[float, int]) -> dict[str, int]:
    if source.sides != "by_centroid":
        return {label: value for value, label in source.labels.items()}
    if set(counts) <= {0}:
        return {}
    meaning = sides_by_centroid(mask, source.labels, counts, _STRIDE)
    return {source.labels[label]: value for value, label in meaning.items()}


def _above(counts: dict[float, int], mask: Mask) -> int:
    assert mask.threshold is not None
    return sum(count for value, count in counts.items() if value > mask.threshold)


def _check_grid(case: Case, mask: Mask, drawn: Volume, image: Volume, check: CaseCheck) -> None:
    differs = grids_agree(drawn.shape, drawn.affine, image.shape, image.affine)
    if differs is None:
        return
    if not mask.own_grid:
        check.findings.append(
            Finding(
                "error",
                "geometry",
                case.dataset,
                f"is not on the image's grid: {differs}, comparing with {case.image}",
                case.case_id,
                str(mask.path),
                "take both files from one download, or resample one onto the other's grid",
            )
        )
        return
    turned = reoriented_affine(drawn.shape, drawn.affine, image.orientation)
    differs = grids_agree(*turned, image.shape, image.affine)
    if differs is None:
        return
    bring_onto(drawn, image, mask)  # raises where the mask is of another scan
    check.findings.append(
        Finding(
            "warning",
            "geometry",
            case.dataset,
            f"its voxels are not the image's, even with axes turned: {differs}; it is resampled"
            " through physical space when it is read",
            case.case_id,
            str(mask.path),
            "look at mask and image together",
        )
    )


def _measure(path: Path, check: CaseCheck) -> None:
    """Count a file, or the files of a series' folder, and their bytes."""
    try:
        if path.is_dir():
            sizes = [entry.stat().st_size for entry in path.iterdir() if entry.is_file()]
        else:
            sizes = [path.stat().st_size]
    except OSError:
        return
    check.files += len(sizes)
    check.bytes += sum(sizes)


def plain(check: CaseCheck, case: Case) -> dict[str, Any]:
    """A case with the facts found of it, as plain JSON values."""
    return {
        "dataset": case.dataset,
        "cohort": case.cohort,
        "case_id": case.case_id,
        "patient_id": case.patient_id,
        "layout": case.layout,
        "image": str(case.image),
        **check.facts,
    }

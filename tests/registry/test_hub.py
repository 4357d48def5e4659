"""The repository as another project meets it: stock `datasets`, a fresh process, no covidseg."""

import importlib.util
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from covidseg.core.errors import ConfigError, LayoutError
from covidseg.registry.hub import build_hub
from covidseg.splits.load import load_split

# The test folders are no packages, so the helper beside this file is loaded by its path.
_spec = importlib.util.spec_from_file_location(
    "hub_sources", Path(__file__).with_name("hub_sources.py")
)
sources = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sources)


def build(root, out, **options):
    return build_hub(root, out, workers=1, progress=False, **options)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with raw downloads and the repository ``data/hub`` of them."""
    folder = tmp_path_factory.mktemp("project")
    root = folder / "raw"
    for draw in (sources.covid_ct_seg, sources.mosmed, sources.nsclc_dicom, sources.semiseg):
        draw(root)
    report = build(root, folder / "data/hub")
    assert report.faults == []
    return folder


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_the_first_lines_of_the_readme(project, cache):
    out = sources.elsewhere(
        """
        train = load_dataset("data/hub", "task1-infection-fold0", split="train")
        print([row["case_id"] for row in train])
        assert "covidseg" not in sys.modules
        """,
        project,
        cache,
    )
    expected = [case.case_id for case in load_split("task1-infection-fold0").parts["train"]]
    assert out.strip() == str(expected)


def test_every_row_decodes_to_its_source_file(project, cache, tmp_path):
    """From another working directory, every part, images and labels, values and affine."""
    out = sources.elsewhere(
        """
        import nibabel as nib, pathlib
        hub, raw = sys.argv[1:]
        parts = load_dataset(hub, "task1-union-fold3")
        count = 0
        for part, rows in parts.items():
            for row in rows:
                case = row["case_id"]
                if row["dataset"] == "covid-ct-seg":
                    image = f"{raw}/COVID-19-CT-Seg_20cases/{case}.nii.gz"
                    label = f"{raw}/Lung_and_Infection_Mask/{case}.nii.gz"
                else:
                    image = f"{raw}/COVID19_1110/studies/CT-1/{case}.nii.gz"
                    label = None
                for have, path in ((row["image"], image), (row["label"], label)):
                    if path:
                        want = nib.load(path)
                        assert isinstance(have, nib.Nifti1Image)
                        assert np.array_equal(have.get_fdata(), want.get_fdata()), path
                        assert np.array_equal(have.affine, want.affine), path
                        assert np.array_equal(row["affine"], want.affine), path
                        assert tuple(row["shape"]) == want.shape
                        assert np.allclose(row["spacing_mm"], want.header.get_zooms())
                count += 1
        print({part: len(rows) for part, rows in parts.items()}, count)
        """,
        tmp_path,
        cache,
        str(project / "data/hub"),
        str(project / "raw"),
    )
    assert out.strip() == "{'train': 4, 'test': 16, 'test_mosmed': 50} 70"


def test_it_streams(project, cache, tmp_path):
    out = sources.elsewhere(
        """
        rows = load_dataset(sys.argv[1], "task1-lung-fold1", split="test", streaming=True)
        # To the end: an interpreter that exits beside a stream left half-read aborts now and then
        # (huggingface/datasets issue 7566).
        first, *_ = list(rows)
        print(first["case_id"], first["image"].shape, first["label"].get_fdata().max())
        path, *_ = [row["image"] for row in rows.decode(False)]
        print(path["path"].endswith(".nii.gz") and path["bytes"] is None)
        """,
        tmp_path,
        cache,
        str(project / "data/hub"),
    )
    assert out.split() == ["coronacases_006", "(10,", "8,", "6)", "2.0", "True"]


def test_rows_say_what_their_values_mean(project, cache):
    out = sources.elsewhere(
        """
        import json
        rows = load_dataset("data/hub", "task1-union-fold0", split="test")
        keys = [k for k in rows.column_names if k not in ("image", "label", "affine")]
        print(json.dumps(rows.select_columns(keys)[-1]))
        """,
        project,
        cache,
    )
    row = json.loads(out)
    assert row["case_id"] == "radiopaedia_10_85902_1"
    assert row["patient_id"] == "radiopaedia_10_85902"
    assert row["intensity"] == {"scale": "windowed", "window_hu": [-1250.0, 250.0]}
    assert row["label_names"] == [
        {"value": 1, "name": "left_lung"},
        {"value": 2, "name": "right_lung"},
        {"value": 3, "name": "infection"},
    ]
    assert row["label_to_target"] == [{"value": v, "target": v} for v in (1, 2, 3)]
    assert row["licence"] == "CC BY-NC-SA 4.0"
    assert row["phantom"] is False
    assert len(row["image_content_hash"]) == 32


def test_dicom_becomes_nifti_with_the_mask_on_its_grid(project, cache):
    out = sources.elsewhere(
        """
        rows = load_dataset("data/hub", "nsclc", split="labelled")
        np.savez(sys.argv[1], image=rows[0]["image"].get_fdata(), lung=rows[0]["lung"].get_fdata(),
                 affine=rows[0]["image"].affine, lung_affine=rows[0]["lung"].affine)
        print(rows[0]["case_id"], rows[0]["series_uid"], rows[0]["patient_id"])
        """,
        project,
        cache,
        str(cache.parent / "case.npz"),
    )
    assert out.split() == ["LUNG1-001", "1.2.3.1.1", "LUNG1-001"]
    loaded = np.load(cache.parent / "case.npz")
    assert np.array_equal(loaded["affine"], loaded["lung_affine"])
    # Both in RAS order, whatever axes the DICOM reader chose.
    volume = nib.as_closest_canonical(nib.Nifti1Image(loaded["image"], loaded["affine"]))
    lung = nib.as_closest_canonical(nib.Nifti1Image(loaded["lung"], loaded["lung_affine"]))
    assert np.array_equal(volume.get_fdata(), sources.scan("LUNG1-001")[::-1, ::-1])
    assert np.array_equal(lung.get_fdata(), sources.labels(2)[::-1, ::-1])


def test_slices_are_volumes_of_one_slice_and_a_missing_label_is_none(project, cache):
    out = sources.elsewhere(
        """
        train = load_dataset("data/hub", "semiseg", split="train")
        print(len(train), train[0]["image"].shape, np.unique(train[0]["label"].get_fdata()))
        pool = load_dataset("data/hub", "semiseg", split="unlabelled")
        print(pool[0]["label"], pool[0]["label_names"], pool[0]["patient_id"])
        fold = load_dataset("data/hub", "semiseg-fold2")
        print({part: len(rows) for part, rows in fold.items()})
        """,
        project,
        cache,
    )
    assert out.splitlines() == [
        "50 (10, 8, 1) [0. 1.]",
        "None [] coronacases_001",
        "{'train': 40, 'validation': 10}",
    ]


def test_to_torch_by_with_transform(project, cache):
    """As docs/load_dataset.md shows it."""
    out = sources.elsewhere(
        """
        import torch

        def to_tensors(rows):
            images = [torch.from_numpy(i.get_fdata(dtype=np.float32))[None] for i in rows["image"]]
            labels = [torch.from_numpy(np.asarray(i.dataobj)).long() for i in rows["label"]]
            return {"image": images, "label": labels}

        train = load_dataset("data/hub", "task1-lung-fold0", split="train")
        loader = torch.utils.data.DataLoader(train.with_transform(to_tensors), batch_size=2)
        batch = next(iter(loader))
        print(tuple(batch["image"].shape), tuple(batch["label"].shape), int(batch["label"].max()))
        """,
        project,
        cache,
    )
    assert out.strip() == "(2, 1, 10, 8, 6) (2, 10, 8, 6) 2"


_IDS_AND_SUM = """
rows = load_dataset(sys.argv[1], "task1-lung-fold0", split="train")
print(rows[0]["case_id"], int(rows[0]["image"].get_fdata().sum()), rows[0]["image_content_hash"])
"""


def test_a_rebuild_with_other_data_is_seen(tmp_path, cache):
    """`datasets` keeps rows by the card's text; the content's hash in it makes them new."""
    root, hub = tmp_path / "raw", tmp_path / "hub"
    sources.covid_ct_seg(root)
    build(root, hub)
    before = sources.elsewhere(_IDS_AND_SUM, tmp_path, cache, str(hub))
    assert before == sources.elsewhere(_IDS_AND_SUM, tmp_path, cache, str(hub))
    changed = sources.scan("coronacases_008") + 1
    sources.put(root / "COVID-19-CT-Seg_20cases/coronacases_008.nii.gz", changed)
    report = build(root, hub)
    assert report.unchanged == 19
    after = sources.elsewhere(_IDS_AND_SUM, tmp_path, cache, str(hub))
    assert after.split()[0] == before.split()[0] == "coronacases_008"
    assert int(after.split()[1]) == int(changed.sum()) != int(before.split()[1])
    assert after.split()[2] != before.split()[2]


def test_a_folder_of_the_same_name_elsewhere_is_another_repository(tmp_path, cache):
    """Cached rows hold absolute paths: two repositories named hub must not share them."""
    root = tmp_path / "raw"
    sources.covid_ct_seg(root)
    build(root, tmp_path / "one/hub")
    first = sources.elsewhere(_IDS_AND_SUM, tmp_path, cache, str(tmp_path / "one/hub"))
    build(root, tmp_path / "other/hub")
    shutil.rmtree(tmp_path / "one")
    assert first == sources.elsewhere(_IDS_AND_SUM, tmp_path, cache, str(tmp_path / "other/hub"))


def test_a_moved_repository_loads_after_a_rebuild(tmp_path, cache):
    root = tmp_path / "raw"
    sources.covid_ct_seg(root)
    build(root, tmp_path / "one/hub")
    first = sources.elsewhere(_IDS_AND_SUM, tmp_path, cache, str(tmp_path / "one/hub"))
    (tmp_path / "one").rename(tmp_path / "two")
    assert build(root, tmp_path / "two/hub").unchanged == 20
    assert first == sources.elsewhere(_IDS_AND_SUM, tmp_path, cache, str(tmp_path / "two/hub"))


def test_linked_symbolically_it_loads_and_streams(tmp_path, cache, monkeypatch):
    def refused(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("covidseg.registry.hub_volumes.os.link", refused)
    root, hub = tmp_path / "raw", tmp_path / "hub"
    sources.covid_ct_seg(root)
    build(root, hub)
    assert (hub / "volumes/covid-ct-seg/labelled/image/coronacases_008.nii.gz").is_symlink()
    code = (
        _IDS_AND_SUM + "next(iter(load_dataset(sys.argv[1], 'task1-lung-fold0', streaming=True)))"
    )
    out = sources.elsewhere(code, tmp_path, cache, str(hub))
    assert int(out.split()[1]) == int(sources.scan("coronacases_008").sum())


def test_a_single_slice_is_a_repository(tmp_path, cache):
    """One volume and one parquet file: `datasets` must still see volumes and not a table."""
    root = tmp_path / "raw"
    picture = root / "Dataset/TrainingSet/LungInfection-Train/Pseudo-label/Imgs"
    sources._picture(picture / "Data-1_coronacases_org_001_1.jpg", sources.scan("a")[..., 0] % 256)
    build(root, tmp_path / "hub")
    code = "print(load_dataset(sys.argv[1], 'semiseg', split='unlabelled')[0]['image'].shape)"
    out = sources.elsewhere(code, tmp_path, cache, str(tmp_path / "hub"))
    assert out.strip() == "(10, 8, 1)"


def test_nothing_found_and_a_folder_of_other_things(tmp_path):
    with pytest.raises(LayoutError, match="none of the datasets"):
        (tmp_path / "empty").mkdir()
        build(tmp_path / "empty", tmp_path / "hub")
    sources.covid_ct_seg(tmp_path / "raw")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="not written by `covidseg build`"):
        build(tmp_path / "raw", tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]

"""Folders of predictions: matching, failures that stay in the table, resuming, the command."""

import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidseg.cli.main import main
from covidseg.core.errors import ConfigError, LayoutError, ScoringError
from covidseg.registry.phantom.marker import MARKER
from covidseg.scoring import folder as folder_module
from covidseg.scoring.case import score_case
from covidseg.scoring.folder import case_id_of, expected_cases, score_folder, settings_for
from covidseg.scoring.scores import read_scores

AFFINE = np.diag([-0.7, -0.7, 5.0, 1.0])


def label_map(seed):
    random = np.random.default_rng(seed)
    labels = np.zeros((16, 14, 6), np.uint8)
    labels[2:7, 2:12, 1:5] = 1
    labels[9:14, 2:12, 1:5] = 2
    labels[(random.random(labels.shape) < 0.1) & (labels > 0)] = 3
    return labels


def save(path, labels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, affine), path)


@pytest.fixture
def folders(tmp_path):
    for number in range(4):
        save(tmp_path / "ref" / f"case_{number}_seg.nii.gz", label_map(number))
        save(tmp_path / "unet" / f"case_{number}.nii.gz", label_map(number + 10))
    return tmp_path / "unet", tmp_path / "ref"


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("coronacases_001.nii.gz", "coronacases_001"),
        ("volume-covid19-A-0003_ct_seg.nii", "volume-covid19-A-0003_ct"),
        ("volume-covid19-A-0003_seg.nii.gz", "volume-covid19-A-0003"),
        ("volume-covid19-A-0287_0.nii.gz", "volume-covid19-A-0287_0"),
        ("study_0255_mask.nii.gz", "study_0255"),
        ("tr_im_12.PNG", "tr_im_12"),
        ("radiopaedia_10_85902_1.nii.gz", "radiopaedia_10_85902_1"),
        ("coronacases_org_001.nii.gz", "coronacases_001"),
        ("radiopaedia_org_covid-19-pneumonia-14_85914_0-dcm.nii", "radiopaedia_14_85914_0"),
    ],
)
def test_case_ids(name, case):
    assert case_id_of(f"some/where/{name}") == case


def test_every_case_and_label_has_a_row_with_score_cases_values(folders):
    scores = score_folder(*folders, task="task1-union", workers=1, progress=False)
    assert scores["case_id"].tolist() == [f"case_{n}" for n in range(4) for _ in range(3)]
    assert set(scores["algorithm"]) == {"unet"}
    assert set(scores["dataset"]) == {"covid-ct-seg"}
    spacing = tuple(float(np.float32(step)) for step in (0.7, 0.7, 5))
    expected = score_case(
        label_map(12),
        label_map(2),
        {1: "left_lung", 2: "right_lung", 3: "infection"},
        spacing,
        {"left_lung": 1, "right_lung": 1, "infection": 3},
    )
    rows = scores[scores["case_id"] == "case_2"].set_index("label")
    assert rows.loc["left_lung", "nsd_1mm"] == expected["left_lung"].nsd[1]
    assert rows.loc["infection", "nsd_3mm"] == expected["infection"].nsd[3]
    assert pd.isna(rows.loc["infection", "nsd_1mm"])
    assert rows.loc["infection", "dsc"] == expected["infection"].dsc
    assert rows.loc["right_lung", "nave"] == expected["right_lung"].nave


def test_processes_give_the_same(folders):
    alone = score_folder(*folders, task="task1-union", workers=1, progress=False)
    together = score_folder(*folders, task="task1-union", workers=2, progress=False)
    pd.testing.assert_frame_equal(alone, together)


def test_no_case_is_lost(folders):
    predictions, references = folders
    (predictions / "case_0.nii.gz").unlink()
    save(predictions / "case_1.nii.gz", label_map(1)[:-1])
    save(predictions / "case_2.nii.gz", label_map(2), np.diag([-0.7, -0.7, 3.0, 1.0]))
    (predictions / "case_3.nii.gz").write_bytes(b"\x1f\x8b not a volume")
    save(predictions / "case_4.nii.gz", label_map(4))
    save(predictions / "case_5.nii.gz", label_map(5) * 2)
    save(references / "case_5.nii.gz", label_map(5))
    save(predictions / "case_6.nii.gz", label_map(6) / np.float32(2))
    save(references / "case_6.nii.gz", label_map(6))
    scores = score_folder(*folders, task="task1-union", workers=1, progress=False)
    status = scores.groupby("case_id")["status"].agg(lambda values: "/".join(sorted(set(values))))
    assert status.to_dict() == {
        "case_0": "missing_prediction",
        "case_1": "grid_mismatch",
        "case_2": "grid_mismatch",
        "case_3": "unreadable",
        "case_4": "missing_reference",
        "case_5": "bad_labels",
        "case_6": "bad_labels",
    }
    assert (scores.groupby("case_id").size() == 3).all()
    assert scores["dsc"].isna().all()
    messages = scores.drop_duplicates("case_id").set_index("case_id")["message"]
    assert "shapes" in messages["case_1"]
    assert "resample" in messages["case_2"]
    assert "Threshold" in messages["case_6"]


def test_voxel_sizes_are_the_headers_widened_from_float32(folders):
    predictions, references = folders
    # Ten steps of float32(0.3) are more than 3 mm; of 0.3 they are not.
    far = np.zeros((24, 1, 1), np.uint8)
    near = far.copy()
    far[12], near[2] = 1, 1
    for folder, labels in ((predictions, far), (references, near)):
        shutil.rmtree(folder)
        save(folder / "a.nii.gz", labels, np.diag([0.3, 0.3, 0.3, 1.0]))
    scores = score_folder(*folders, task="task1-infection", workers=1, progress=False)
    assert scores["nsd_3mm"].tolist() == [0.5]


def test_pictures(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        for folder in ("pred", "GT"):
            (tmp_path / folder).mkdir(exist_ok=True)
            mask = (random.random((30, 40)) < 0.3) * np.uint8(255 if folder == "GT" else 1)
            Image.fromarray(mask).save(tmp_path / folder / f"{name}.png")
    scores = score_folder(
        tmp_path / "pred",
        tmp_path / "GT",
        labels={1: "infection"},
        tolerances_mm={"infection": 1},
        workers=1,
        progress=False,
    )
    assert scores["status"].tolist() == ["ok", "ok"]
    assert scores["dsc"].between(0.1, 0.6).all()
    assert scores["volume_reference_ml"].isna().all()


def test_an_interrupted_run_goes_on(folders, tmp_path, monkeypatch):
    journal = tmp_path / "scores.csv.partial"
    complete = score_folder(*folders, task="task1-union", workers=1, progress=False)
    scored = []
    original = folder_module.score_pair

    def until_the_third(pair, settings):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(pair.case_id)
        return original(pair, settings)

    arguments = {"task": "task1-union", "workers": 1, "progress": False, "journal": journal}
    monkeypatch.setattr(folder_module, "score_pair", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        score_folder(*folders, **arguments)
    with open(journal, "a") as file:
        file.write('{"key": "cut sho')  # killed while writing
    # One of the two that were scored changes meanwhile.
    save(folders[0] / "case_1.nii.gz", label_map(11))
    again = []

    def count(pair, settings):
        again.append(pair.case_id)
        return original(pair, settings)

    monkeypatch.setattr(folder_module, "score_pair", count)
    resumed = score_folder(*folders, **arguments)
    assert scored == ["case_0", "case_1"]
    assert again == ["case_1", "case_2", "case_3"]
    pd.testing.assert_frame_equal(resumed, complete)
    assert journal.exists()  # until the result is written, which may fail


def test_a_configuration_names_its_cases(tmp_path):
    cases = expected_cases("task1-union-fold0", "test")
    assert len(cases) == 16
    assert expected_cases("task1-union", "test") is None
    assert expected_cases("covid1920", "test_seen") is None
    for case in [*cases[:2], "another"]:
        save(tmp_path / "pred" / f"{case}.nii.gz", label_map(0))
        save(tmp_path / "ref" / f"{case}.nii.gz", label_map(0))
    scores = score_folder(
        tmp_path / "pred", tmp_path / "ref", task="task1-union-fold0", workers=1, progress=False
    )
    assert set(scores["case_id"]) == set(cases)
    assert set(scores["task"]) == {"task1-union"}
    assert set(scores["fold"]) == {0}
    assert (scores["status"] == "ok").sum() == 6


def test_what_the_task_decides():
    settings = settings_for("task1-union")
    assert settings.tolerances_mm == {"left_lung": (1,), "right_lung": (1,), "infection": (3,)}
    assert settings_for("covid1920", part="test_seen").tolerances_mm == {"infection": (1,)}
    both = settings_for("task1-infection", tolerances_mm={"infection": [1, 3]})
    assert both.tolerances_mm == {"infection": (1, 3)}
    mosmed = settings_for(
        "task1-union-fold1", part="test_mosmed", reference_labels={1: "infection"}
    )
    assert (mosmed.dataset, mosmed.scored, mosmed.fold) == ("mosmed", ("infection",), 1)
    assert settings_for("task1-infection").identity("radiopaedia_10_85902_3")["patient_id"] == (
        "radiopaedia_10_85902"
    )


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"task": None}, ConfigError, "neither a task nor labels"),
        ({"task": "task9"}, ConfigError, "not known"),
        # Scored as a task of that name, it would stand beside the folds without being one of them.
        ({"task": "task1-union-fold9"}, ConfigError, "fold9. is not known"),
        ({"task": "task1-lung", "part": "exam"}, ConfigError, "no part 'exam'"),
        ({"task": "task1-union", "part": "test_mosmed"}, ConfigError, "--reference-labels"),
        ({"task": "task1-lung", "tolerances_mm": {"heart": 1}}, ScoringError, "not scored"),
        ({"task": None, "labels": {1: "heart"}}, ScoringError, "no tolerance for heart"),
        ({"task": "task1-lung", "tolerances_mm": -1}, ScoringError, "tolerance is -1"),
    ],
)
def test_settings_that_make_no_sense(arguments, error, words):
    with pytest.raises(error, match=words):
        settings_for(**arguments)


def test_folders_that_make_no_sense(folders, tmp_path):
    predictions, references = folders
    arguments = {"task": "task1-union", "workers": 1, "progress": False}
    with pytest.raises(LayoutError, match="no such folder"):
        score_folder(tmp_path / "nowhere", references, **arguments)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "plan.json").touch()
    with pytest.raises(LayoutError, match="no label map"):
        score_folder(predictions, tmp_path / "empty", **arguments)
    save(predictions / "case_1_pred.nii", label_map(1))
    with pytest.raises(ScoringError, match="case_1 is there twice"):
        score_folder(*folders, **arguments)


def test_scans_beside_their_annotations_are_no_annotations(folders):
    references = folders[1]
    plain = score_folder(*folders, task="task1-union", workers=1, progress=False)
    for number in range(4):
        save(references / f"case_{number}_ct.nii.gz", label_map(number + 20))
    beside = score_folder(*folders, task="task1-union", workers=1, progress=False)
    pd.testing.assert_frame_equal(plain, beside)


def test_a_scan_among_annotations_is_a_case_without_its_annotation(folders):
    references = folders[1]
    for number in range(4):
        save(references / f"case_{number}_ct.nii.gz", label_map(number + 20))
    (references / "case_3_seg.nii.gz").unlink()
    scores = score_folder(*folders, task="task1-union", workers=1, progress=False)
    assert set(scores.loc[scores["case_id"] == "case_3", "status"]) == {"missing_reference"}
    # Where nothing but scans is named, they are label maps that are called after their scans.
    for number in range(3):
        (references / f"case_{number}_seg.nii.gz").unlink()
    scores = score_folder(*folders, task="task1-union", workers=1, progress=False)
    assert set(scores["status"]) == {"ok"}


def test_labels_that_a_slope_has_rounded_are_whole(folders):
    labels = label_map(0).astype(np.float64)
    image = nib.Nifti1Image(labels, AFFINE)
    image.set_data_dtype(np.int32)  # nibabel finds a slope of about 1e-9
    nib.save(image, folders[0] / "case_0.nii.gz")
    save(folders[1] / "case_0_seg.nii.gz", label_map(0))
    scores = score_folder(*folders, task="task1-union", workers=1, progress=False)
    assert (scores.loc[scores["case_id"] == "case_0", "dsc"] == 1).all()


def test_names_that_have_nothing_in_common(folders, tmp_path):
    (tmp_path / "other").mkdir()
    for path in folders[0].iterdir():
        shutil.copy(path, tmp_path / "other" / path.name.replace("case", "scan"))
    with pytest.raises(LayoutError, match=r"scan_0, scan_1, \.\.\.; expected .* case_0, case_1"):
        score_folder(tmp_path / "other", folders[1], task="task1-union", progress=False)


def command(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["score", *map(str, arguments), "--workers", "1"])
    return end.value.code


def test_the_command(folders, tmp_path, capsys):
    out, wide = tmp_path / "out" / "scores.csv", tmp_path / "wide.csv"
    options = ["--task", "task1-union", "--out", out, "--benchmark-csv", wide]
    assert command(*folders, *options, "--algorithm", "U-Net") == 0
    assert "infection" in capsys.readouterr().out
    assert set(read_scores(out)["algorithm"]) == {"U-Net"}
    assert len(read_scores(wide)) == 12
    assert not out.with_name("scores.csv.partial").exists()

    (folders[0] / "case_0.nii.gz").unlink()
    assert command(*folders, *options, "--tolerance", "infection=1,3") == 1
    printed = capsys.readouterr()
    assert "3 failed" not in printed.out
    assert "1 failed" in printed.out
    assert "case_0: missing_prediction" in printed.err
    assert read_scores(out)["nsd_3mm"].notna().sum() == 3

    # Where the references lie below a phantoms' marker, the scores are of phantoms.
    assert not read_scores(out)["phantom"].any()
    (tmp_path / MARKER).write_text('{"phantom": true}')
    command(*folders, *options)
    assert read_scores(out)["phantom"].all()
    capsys.readouterr()

    # Given twice, a label has both tolerances.
    assert command(*folders, *options, "--tolerance", "infection=1", "--tolerance", "infection=3")
    assert {"nsd_1mm", "nsd_3mm"} <= set(read_scores(out).columns)
    capsys.readouterr()

    # What does not fit the benchmark's form is said after all that was found.
    wide.unlink()
    one = ["--labels", "1=left_lung,2=right_lung,3=infection", *options[2:]]
    tolerances = [word for name in ("left_lung", "right_lung", "infection")
                  for word in ("--tolerance", f"{name}=2")]  # fmt: skip
    assert command(*folders, *one, *tolerances) == 2
    printed = capsys.readouterr()
    assert "case_0: missing_prediction" in printed.err
    assert "left_lung=1" in printed.err
    assert not wide.exists()

    capsys.readouterr()
    assert command(*folders, *options[:-1], out) == 2
    assert "both --out and --benchmark-csv" in capsys.readouterr().err

    assert command(*folders, *options[:-1], tmp_path) == 2
    assert command(*folders, "--task", "task1-union", "--out", tmp_path) == 2
    assert "is a folder" in capsys.readouterr().err
    assert command(*folders, "--out", out) == 2
    assert "--task" in capsys.readouterr().err
    assert command(*folders, "--labels", "lung", "--out", out) == 2
    assert command(*folders, *options, "--tolerance", "infection=near") == 2
    assert command(*folders, *options, "--tolerance", "infection=-3") == 2
    assert "tolerance is -3" in capsys.readouterr().err

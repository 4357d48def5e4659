"""The teacher-student trainer as its user calls it: rounds, what is kept, every wrong turn."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from covidseg.core.errors import ConfigError, LayoutError
from covidseg.engine.runs import open_runs, read_run
from covidseg.engine.segmentation import GridConfig
from covidseg.engine.task_data import read_part
from covidseg.imaging.nifti import read_header, read_nifti, write_nifti
from covidseg.pseudolabel import prediction
from covidseg.pseudolabel.prediction import open_teachers
from covidseg.pseudolabel.recipe import PseudolabelRecipe
from covidseg.pseudolabel.rounds import refuse_other_teachers, with_teachers_grid
from covidseg.trainers.pseudolabel import main

SCRIPT = Path(__file__).resolve().parents[2] / "trainers" / "pseudolabel.py"
# A teacher of a few steps is sure of nothing.
LENIENT = [
    "--rounds.filter.foreground=0.51", "--rounds.filter.background=0.51",
    "--rounds.filter.max_entropy=1", "--rounds.filter.min_agreement=0",
]  # fmt: skip
POOL = ["--unlabelled.configuration=mosmed", "--unlabelled.part=unlabelled"]


@pytest.fixture(scope="session")
def words(options, tmp_path_factory) -> list[str]:
    """A recipe of Task 1's infections with MosMed's unlabelled scans, and its options."""
    recipe = tmp_path_factory.mktemp("recipe") / "student.yaml"
    recipe.write_text(
        "name: student\n"
        "data: {configuration: task1-infection, fold: 0}\n"
        "method: {name: noisy-student}\n"
        "network: {family: plain, dimensions: 2}\n"
        "rounds: {count: 1, fine_tune_epochs: 1, filter: {keep_empty: true}}\n"
    )
    return ["--recipe", str(recipe), *options, *POOL, *LENIENT, "--train.epochs=2"]


@pytest.fixture(scope="session")
def student(words, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "student"
    main([*words, "--out", str(out)])
    return out


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_round_leaves_runs_pseudo_labels_and_their_tables(student, hub):
    pool = read_part(hub, "mosmed", "unlabelled").cases
    listed = {row["case_id"]: row for row in table(student / "pool.csv")}
    assert {case.case_id for case in pool} == set(listed)
    assert {row["state"] for row in listed.values()} == {"taken"}
    folder = student / "rounds" / "1" / "pool"
    rows = {row["case_id"]: row for row in table(folder / "pseudolabels.csv")}
    assert set(rows) == set(listed)
    for case in pool:
        row = rows[case.case_id]
        assert row["state"] == "kept"
        label, scan = read_nifti(folder / row["label"]), read_header(case.image)
        assert label.shape == scan.shape
        np.testing.assert_allclose(label.affine, scan.affine, atol=1e-4)
        assert set(np.unique(label.data)) <= {0, 1, 255}
    assert (folder / "kept.png").stat().st_size > 5000
    manifest = json.loads((student / "rounds" / "1" / "student" / "manifest.json").read_text())
    assert manifest["phantom"] is True
    pseudo = manifest["data"]["pseudo"]["pseudo_labels"]
    assert pseudo["pseudo_labelled"] == len(pool)
    assert pseudo["teachers"] == [str(student / "rounds" / "teacher1")]
    # Steps of student and fine-tuning together are those of the recipe.
    tuned = json.loads((student / "manifest.json").read_text())
    assert [m["result"]["steps"] for m in (manifest, tuned)] == [6, 6]


def test_the_run_itself_predicts(student, hub):
    predictor = open_runs([student], device="cpu")
    case = read_part(hub, "task1-infection-fold0", "test").cases[0]
    volume = read_nifti(case.image)
    assert predictor.predict(volume, case.intensity).shape == volume.shape


def test_the_second_call_resumes_and_changes_nothing(student, words):
    with pytest.raises(ConfigError, match=r"holds a run already.*--resume"):
        main([*words, "--out", str(student)])
    pattern = ("rounds/1/pool/*/*", "**/*.safetensors")
    before = {p: p.stat().st_mtime_ns for one in pattern for p in student.glob(one)}
    assert len(before) > 40
    main([*words, "--out", str(student), "--resume"])
    assert {p: p.stat().st_mtime_ns for one in pattern for p in student.glob(one)} == before


def test_what_a_student_has_begun_to_learn_from_stays_as_it_is(student, words, tmp_path):
    """A teacher predicts by other windows from now on; its pseudo-labels were by those before."""
    own = shutil.copytree(student, tmp_path / "run", symlinks=True)
    pool = own / "rounds/1/pool"
    before = {path: path.stat().st_mtime_ns for path in pool.glob("*/*")}
    resumed = [*words, "--out", str(own), "--resume", "--window.batch_size=1"]
    changed = ["--window.logit_adjustment=9", "--window.overlap=0.25", "--window.mirror=true"]
    main([*resumed, *changed])
    assert {path: path.stat().st_mtime_ns for path in pool.glob("*/*")} == before
    for run in (own, own / "rounds" / "teacher1"):
        window = read_run(run).window
        assert (window.batch_size, window.overlap, window.logit_adjustment) == (1, 0.25, 9)
    # Nor are they made otherwise where one is lost.
    lost = next((pool / "labels").iterdir())
    kept = lost.read_bytes()
    (pool / "cases" / lost.name.replace(".nii.gz", ".json")).unlink()
    lost.unlink()
    main([*resumed, *changed])
    assert lost.read_bytes() == kept
    # Who has not begun learns from labels as the recipe makes them now.
    for run in (own, own / "rounds/1/student"):
        shutil.rmtree(run / "checkpoints")
    main([*resumed, *changed])
    assert lost.read_bytes() != kept


def test_a_filter_that_kept_nothing_is_changed_beside_the_trained_teacher(words, tmp_path):
    run = tmp_path / "run"
    strict = ["--rounds.filter.foreground=1", "--rounds.filter.keep_empty=false"]
    with pytest.raises(ConfigError, match=r"none of 10 pseudo-labels is kept.*lower rounds.filter"):
        main([*words, *strict, "--out", str(run)])
    teacher = next((run / "rounds/teacher1").rglob("*.safetensors"))
    trained = teacher.stat().st_mtime_ns
    main([*words, "--out", str(run), "--resume"])
    assert teacher.stat().st_mtime_ns == trained
    # What a student has learnt with is not changed any more.
    with pytest.raises(ConfigError, match=r"rounds.filter.foreground: 0.51 before, now 0.6"):
        main([*words, "--rounds.filter.foreground=0.6", "--out", str(run), "--resume"])


def test_how_many_windows_go_at_once_is_nothing_of_the_teachers(student):
    config = student / "rounds/teacher1/config.yaml"
    runs = [config.parent]
    before, text = open_teachers(runs, device="cpu"), config.read_text()
    try:
        config.write_text(text.replace("\n  batch_size: null", "\n  batch_size: 3"))
        now = open_teachers(runs, device="cpu")
        assert now.members[0].sliding.batch_size == 3
        assert now.key == before.key
        config.write_text(text.replace("\n  overlap: 0.5", "\n  overlap: 0.25"))
        assert open_teachers(runs, device="cpu").key != before.key
        as_then = open_teachers(runs, device="cpu", windows=before.windows)
        assert as_then.key == before.key
    finally:
        config.write_text(text)


def test_given_teachers_and_one_that_dies_in_the_middle_of_the_pool(
    student, words, tmp_path, monkeypatch
):
    teacher = student / "rounds" / "teacher1"
    arguments = [*words, "--teacher", str(teacher), "--out", str(tmp_path / "run")]
    whole, seen = prediction._predicted, []

    def dies(teachers, scan):
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(scan)
        return whole(teachers, scan)

    monkeypatch.setattr(prediction, "_predicted", dies)
    with pytest.raises(KeyboardInterrupt):
        main(arguments)
    cases = tmp_path / "run/rounds/1/pool/cases"
    before = {path: path.stat().st_mtime_ns for path in cases.iterdir()}
    assert len(before) == 4
    monkeypatch.setattr(prediction, "_predicted", lambda *a: seen.append(a) or whole(*a))
    main([*arguments, "--resume"])
    assert len(seen) == len(list(cases.iterdir())) == 10
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    # The same teacher gives the same pseudo-labels, and those the same student.
    for place in ("rounds/1/pool/labels", "checkpoints/last"):
        for path in (tmp_path / "run" / place).glob("*.[ns]*"):
            assert path.read_bytes() == (student / place / path.name).read_bytes()
    # What the student has begun to learn from is not made anew before that is refused.
    kept = {path: path.stat().st_mtime_ns for path in cases.iterdir()}
    with pytest.raises(ConfigError, match=r"another configuration: .*filter\.foreground"):
        main([*arguments, "--resume", "--rounds.filter.foreground=0.7"])
    with pytest.raises(ConfigError, match="pseudo-labels of other teachers"):
        main([*words, "--teacher", str(student), "--out", str(tmp_path / "run"), "--resume"])
    assert {path: path.stat().st_mtime_ns for path in cases.iterdir()} == kept


def test_another_method_trains_on_the_same_pool(words, tmp_path):
    main([*words, "--method.name=mean-teacher", "--out", str(tmp_path / "run")])
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["data"]["unlabelled"]["pool"]["taken"] == 10
    assert "cases" not in manifest["data"]["unlabelled"]  # the labelled ones are no pool
    assert open_runs([tmp_path / "run"], device="cpu").classes == 2


@pytest.mark.parametrize("method", ["mean-teacher", "noisy-student"])
def test_a_run_goes_on_with_the_pool_it_began_with_alone(words, hub, student, tmp_path, method):
    folder = scans_of(hub, "unlabelled", tmp_path / "scans", 2, "mosmed")
    for path in list(folder.iterdir()):
        volume = read_nifti(path)
        write_nifti(folder / f"own-{path.name}", volume.with_data(volume.data + 1))
        path.unlink()
    if method == "noisy-student":
        run = shutil.copytree(student, tmp_path / "run", symlinks=True)
        words = [*words, "--out", str(run), "--resume"]
    else:
        run = tmp_path / "run"
        words = [*words, "--method.name=mean-teacher", "--out", str(run), "--resume"]
        main(words)
    before = (run / "pool.csv").read_text()
    with pytest.raises(ConfigError, match=r"another unlabelled pool \(10 scans; now 12\)"):
        main([*words, also(folder)])
    assert (run / "pool.csv").read_text() == before
    main(words)


def test_a_teacher_that_learnt_what_measures_the_student_is_refused(student, words, hub, tmp_path):
    teacher = shutil.copytree(student / "rounds/teacher1", tmp_path / "teacher", symlinks=True)
    manifest = json.loads((teacher / "manifest.json").read_text())
    test = read_part(hub, "task1-infection-fold0", "test")
    manifest["data"]["labelled"]["cases"] = {"renamed": test.rows[0].content}
    (teacher / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"teacher learnt the labels of 1 of the 16 scans of te"):
        main([*words, "--teacher", str(teacher), "--out", str(out)])
    assert not (out / "pool.csv").exists()


def test_a_2d_teacher_leaves_the_planes_to_a_3d_student(student):
    teachers = [student / "rounds" / "teacher1"]
    own = read_run(student, PseudolabelRecipe)
    measured = own.grid.spacing_mm
    assert measured[0] is None
    flat = dataclasses.replace(own, grid=GridConfig())
    assert with_teachers_grid(flat, teachers).grid.spacing_mm == measured
    deep = dataclasses.replace(
        flat, network=dataclasses.replace(own.network, dimensions=3, strides=None)
    )
    assert with_teachers_grid(deep, teachers) == deep  # its planning is its own
    for z in (2.5, None):
        refuse_other_teachers(with_spacing(deep, (z, *measured[1:])), teachers)
    with pytest.raises(ConfigError, match="this teacher predicts at each scan's own"):
        refuse_other_teachers(with_spacing(deep, (2.5, measured[1] * 2, measured[2])), teachers)


def with_spacing(recipe, spacing_mm):
    return dataclasses.replace(recipe, grid=GridConfig(spacing_mm=spacing_mm))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--unlabelled.batch_size=0", r"unlabelled.batch_size is 0; expected at least 1, or null"),
        ("--unlabelled.batch_size=-2", "unlabelled.batch_size is -2"),
        ("--rounds.count=0", "rounds.count is 0"),
        ("--method.ua_mt.passes=0", "passes is 0"),
    ],
)
def test_what_cannot_be_is_refused_before_the_pool_is_gathered(
    words, tmp_path, monkeypatch, change, message
):
    monkeypatch.setattr("covidseg.trainers.pseudolabel.gather", None)
    with pytest.raises(ConfigError, match=message):
        main([*words, change, "--out", str(tmp_path / "run")])


def test_few_labels_and_the_others_in_the_pool(words, tmp_path):
    main(
        [*words, "--method.name=cps", "--unlabelled.labelled_cases=1", "--unlabelled.part=",
         "--out", str(tmp_path / "run"), "--grid.spacing_mm=[20,9,9]"]
    )  # fmt: skip
    listed = table(tmp_path / "run/pool.csv")
    assert len(listed) == 3
    labelled = json.loads((tmp_path / "run/manifest.json").read_text())["data"]["labelled"]
    assert len(labelled["cases"]) == 1
    assert not {row["case_id"] for row in listed} & set(labelled["cases"])


def test_a_student_of_few_scans_that_starts_from_its_teacher(student, words, tmp_path):
    from safetensors.numpy import load_file

    teacher = student / "rounds" / "teacher1"
    main(
        [*words, "--teacher", str(teacher), "--rounds.from_teacher=true", "--unlabelled.cases=3",
         "--rounds.fine_tune_epochs=0", "--optim.lr=1e-12", "--out", str(tmp_path / "run")]
    )  # fmt: skip
    states = [row["state"] for row in table(tmp_path / "run/pool.csv")]
    assert sorted(states) == ["not drawn"] * 7 + ["taken"] * 3
    learnt = json.loads((tmp_path / "run/manifest.json").read_text())["data"]["pseudo"]
    assert learnt["pseudo_labels"]["pseudo_labelled"] == 3
    # It learns nothing at such a rate, so it is what it was at first.
    own, first = (
        load_file(run / "checkpoints/last/model.safetensors") for run in (tmp_path / "run", teacher)
    )
    for name, value in first.items():
        np.testing.assert_allclose(own[name], value, atol=1e-6)


# Folders of scans ---------------------------------------------------------------------------------


def scans_of(hub, part, folder, count=None, configuration="task1-infection-fold0"):
    folder.mkdir()
    for case in read_part(hub, configuration, part).cases[:count]:
        shutil.copy(case.image, folder / f"{case.case_id}.nii.gz")
    return folder


def also(*folders):
    return "--unlabelled.also=" + json.dumps([str(folder) for folder in folders])


def test_a_folder_with_test_scans_among_others(words, hub, tmp_path):
    folder = scans_of(hub, "unlabelled", tmp_path / "pool", 5, "mosmed")
    test = read_part(hub, "task1-infection-fold0", "test").cases
    # Another name, other axes and no affine: the voxels are those of a test scan.
    volume = read_nifti(test[0].image)
    turned = np.ascontiguousarray(volume.data.transpose(1, 0, 2)[::-1])
    write_nifti(folder / "innocent.nii.gz", type(volume)(turned, np.eye(4)))
    shutil.copy(test[1].image, folder / "renamed.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"not a scan")
    main([*words, "--method.name=mean-teacher", "--unlabelled.part=", also(folder),
          "--out", str(tmp_path / "run")])  # fmt: skip
    rows = {row["case_id"]: row for row in table(tmp_path / "run/pool.csv")}
    assert len(rows) == 8
    assert rows["innocent"]["reason"].startswith("the same pixels, turned or mirrored as covid-ct")
    assert rows["renamed"]["reason"].startswith("the same pixels as covid-ct-seg/")
    assert rows["broken"]["state"] == "unreadable"
    assert sum(row["state"] == "taken" for row in rows.values()) == 5


def test_a_folder_that_is_the_test_set(words, hub, tmp_path):
    folder = scans_of(hub, "test", tmp_path / "pool", 3)
    with pytest.raises(ConfigError, match=r"3 of its 3 scans are of an evaluation part"):
        main([*words, also(folder), "--out", str(tmp_path / "run")])


def test_a_folder_with_two_scans_of_one_name(words, hub, tmp_path):
    folder = scans_of(hub, "unlabelled", tmp_path / "pool", 1, "mosmed")
    [scan] = folder.iterdir()
    (folder / scan.name.replace(".nii.gz", ".png")).write_bytes(b"a picture")
    with pytest.raises(LayoutError, match="two scans are called study_"):
        main([*words, also(folder), "--out", str(tmp_path / "run")])


def test_no_scan_is_left(words, hub, tmp_path):
    folder = scans_of(hub, "train", tmp_path / "pool", 2)
    (folder / "broken.nii.gz").write_bytes(b"not a scan")
    with pytest.raises(ConfigError, match=r"of 3, 2 were refused .* and 1 cannot be read"):
        main([*words, "--unlabelled.part=", also(folder), "--out", str(tmp_path / "run")])
    rows = table(tmp_path / "run/pool.csv")
    assert {row["reason"].split(" in ")[-1] for row in rows[:2]} == {"labelled"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--unlabelled.part=nothing"], "mosmed has no part 'nothing'"),
        (["--unlabelled.configuration=mosmet"], "mosmed"),
        (["--unlabelled.also=[/nowhere]"], "no folder of unlabelled scans"),
        (["--unlabelled.also=[hub:mosmed/unlabelled]"], "both hold a scan study_"),
        (["--unlabelled.labelled_cases=5"], "labelled_cases is 5; expected 1 to 4"),
        (["--unlabelled.cases=0"], "unlabelled.cases is 0; expected 1 or more"),
        (["--rounds.fine_tune_epochs=2"], "rounds.fine_tune_epochs is 2"),
        (["--rounds.filter.foreground=1", "--rounds.filter.keep_empty=false"], "is kept"),
    ],
)
def test_a_mistake_in_the_recipe_is_named(student, words, tmp_path, change, message):
    teacher = ["--teacher", str(student / "rounds" / "teacher1")]
    with pytest.raises(ConfigError, match=message):
        main([*words, *teacher, *change, "--out", str(tmp_path / "run")])


def test_teachers_that_do_not_fit(student, run, words, tmp_path):
    out = ["--out", str(tmp_path / "run")]
    with pytest.raises(ConfigError, match="predicts left_lung, right_lung; expected infection"):
        main([*words, *out, "--teacher", str(run), "--grid.spacing_mm=[20,9,9]"])
    teacher = ["--teacher", str(student / "rounds" / "teacher1")]
    with pytest.raises(ConfigError, match=r"at each scan's own × .* mm .*expected 3 × 2 × 2 mm"):
        main([*words, *out, *teacher, "--resume", "--grid.spacing_mm=[3,2,2]"])
    with pytest.raises(ConfigError, match=r"expected each scan's own × 2 × 2 mm"):
        main([*words, *out, *teacher, "--resume", "--grid.spacing_mm=[null,2,2]"])
    with pytest.raises(ConfigError, match=r"--teacher is given, and method.name is cps"):
        main([*words, *out, *teacher, "--resume", "--method.name=cps"])


# Processes ----------------------------------------------------------------------------------------


def environment():
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_processes_share_the_pool_and_train_the_same_student(student, words, tmp_path):
    teacher = ["--teacher", str(student / "rounds" / "teacher1")]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        str(SCRIPT), *words, *teacher, "--out", str(tmp_path / "two"),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (folder / "rounds/1/pool" for folder in (student, tmp_path / "two"))
    assert table(one / "pseudolabels.csv") == table(two / "pseudolabels.csv")
    for path in (one / "labels").iterdir():
        assert path.read_bytes() == (two / "labels" / path.name).read_bytes()
    logs = [
        np.genfromtxt(folder / "rounds/1/student/log.csv", delimiter=",", names=True)["loss"]
        for folder in (student, tmp_path / "two")
    ]
    np.testing.assert_allclose(logs[0], logs[1], rtol=1e-3)


@pytest.mark.slow
def test_killed_in_the_middle_of_the_pool_it_goes_on(student, words, tmp_path):
    teacher = ["--teacher", str(student / "rounds" / "teacher1")]
    command = [sys.executable, str(SCRIPT), *words, *teacher, "--out", str(tmp_path / "run")]
    cases = tmp_path / "run/rounds/1/pool/cases"
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if cases.is_dir() and len(list(cases.glob("study*.json"))) >= 2:
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    before = {path: path.stat().st_mtime_ns for path in cases.glob("study*.json")}
    assert before
    main([*words, *teacher, "--out", str(tmp_path / "run"), "--resume"])
    assert len(list(cases.iterdir())) == 10
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    last = "rounds/1/student/checkpoints/last/model.safetensors"
    assert (tmp_path / "run" / last).read_bytes() == (student / last).read_bytes()

import csv
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidseg.scoring.bootstrap_ranking import bootstrap_ranking
from covidseg.scoring.ranking import Challenge, Task, rank_challenge
from covidseg.scoring.ranking_data import read_challenge
from covidseg.scoring.report import (
    methods_text,
    ranking_table,
    report_warnings,
    task_table,
    write_ranking_report,
)
from covidseg.scoring.report_html import Page

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "ranking_golden"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def small(phantom=True, missing="worst", mode="unique", adjust="holm"):
    rng = np.random.default_rng(0)
    values = np.linspace(0.8, 0.2, 4)[:, None] + rng.random((4, 10)) / 10
    names = ("a & b", "<script>alert(1)</script>", "c", "d")
    cases = tuple(f"case{k}" for k in range(10))
    gone = np.zeros(values.shape, bool)
    gone[3, 2] = True
    nave = np.where(gone, np.nan, values - 1)
    tasks = (
        Task("DSC", names, cases, values, gone & False, 0.0),
        Task("NAVE", names, cases, nave, gone, -np.inf),
    )
    ranking = rank_challenge(
        Challenge(tasks, phantom=phantom, notes=("A note.",)), adjust=adjust, missing=missing
    )
    return ranking, bootstrap_ranking(ranking, samples=20, seed=7, mode=mode, progress=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    ranking, samples = small()
    source = folder / "scores.csv"
    source.write_text("whatever")
    page = write_ranking_report(ranking, samples, folder / "out", sources=[source], progress=False)
    return ranking, samples, page


class Resources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.addresses, self.tags, self.alts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset")]
        self.alts += [value for name, value in attrs if name == "alt"]


def test_the_page_needs_no_other_file(written):
    page = Resources()
    page.feed(written[2].read_text(encoding="utf-8"))
    assert all(re.match(r"(data:image/svg\+xml;base64,|#)", address) for address in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(" not in written[2].read_text()
    assert page.tags.count("img") == len(page.alts) == 10


def test_the_page_escapes_names_and_says_what_it_is(written):
    text = written[2].read_text(encoding="utf-8")
    assert '<td class="text">a &amp; b</td>' in text
    assert "&lt;script&gt;" in text
    assert "Phantom data" in text
    assert "A note." in text
    assert "Missing cases count as the worst: 1 in NAVE." in text
    assert "all 12 ordered pairs" in text
    assert "Versions" in text or "versions" in text


def test_all_files_are_there_and_whole(written):
    folder = written[2].parent
    names = {path.name for path in (folder / "figures").iterdir()}
    stems = ["blob-consensus", "tasks", "tau", "methods"]
    kinds = ("blob", "podium", "significance")
    stems += [f"{kind}-{task}" for kind in kinds for task in ("dsc", "nave")]
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    for path in (folder / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    for name in ("ranking.csv", "tasks.csv", "tests.csv", "bootstrap.csv"):
        table = pd.read_csv(folder / name)
        assert (table["phantom"].astype(str).str.lower() == "true").all()


def test_tables_hold_the_ranking(written):
    ranking, samples, page = written
    table = pd.read_csv(page.parent / "ranking.csv")
    assert table["rank"].tolist() == sorted(ranking.consensus)
    assert table["rank DSC"].tolist() == ranking.tasks[0].ranks[ranking.order].tolist()
    tests = pd.read_csv(page.parent / "tests.csv")
    assert len(tests) == 2 * 12
    first = tests.iloc[0]
    assert (first["algorithm"], first["against"]) == ranking.challenge.algorithms[:2]
    assert first["p"] == ranking.tasks[0].p_values[0, 1]
    boots = pd.read_csv(page.parent / "bootstrap.csv")
    assert len(boots) == 3 * 20
    assert boots["rank d"].iloc[:20].tolist() == samples.ranks[0, :, 3].tolist()
    with open(page.parent / "tasks.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == "NAVE"]
    assert {row["algorithm"]: (row["cases"], row["missing"]) for row in rows}["d"] == ("9", "1")


def test_the_summary(written):
    ranking, _, page = written
    summary = json.loads((page.parent / "ranking.json").read_text())
    assert summary["phantom"] is True
    assert summary["settings"] == {
        "adjust": "holm", "alpha": 0.05, "missing": "worst", "bootstraps": 20,
        "bootstrap_mode": "unique", "seed": 7,
    }  # fmt: skip
    assert summary["sources"] == [
        {"file": "scores.csv", "sha256": hashlib.sha256(b"whatever").hexdigest()}
    ]
    assert summary["consensus"][0] == {
        "rank": 1,
        "algorithm": ranking.challenge.algorithms[ranking.order[0]],
        "mean_rank": ranking.mean_ranks.min(),
    }
    assert {"python", "numpy", "scipy", "covidseg"} <= set(summary["versions"])


def test_the_same_input_gives_the_same_bytes(written, tmp_path):
    ranking, samples, page = written
    again = write_ranking_report(
        ranking, samples, tmp_path, sources=[page.parent.parent / "scores.csv"], progress=False
    )
    assert again.read_bytes() == page.read_bytes()
    assert (tmp_path / "ranking.json").read_bytes() == (page.parent / "ranking.json").read_bytes()


def test_figures_of_an_earlier_report_do_not_stay(tmp_path):
    ranking, samples = small()
    write_ranking_report(ranking, samples, tmp_path, progress=False)
    (tmp_path / "figures" / "of my own.png").write_bytes(b"")
    alone = rank_challenge(Challenge(ranking.challenge.tasks[:1], phantom=True))
    fewer = bootstrap_ranking(alone, samples=5, progress=False)
    write_ranking_report(alone, fewer, tmp_path, progress=False)
    summary = json.loads((tmp_path / "ranking.json").read_text())
    stems = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert stems == {*summary["figures"], "of my own"}


def test_means_are_over_cases_with_a_value():
    ranking, samples = small()
    table = task_table(ranking, samples)
    d = table[(table["task"] == "NAVE") & (table["algorithm"] == "d")].iloc[0]
    values = ranking.tasks[1].task.values[3]
    assert d["mean"] == np.nanmean(values)
    assert d["cases"] + d["missing"] + d["undefined"] == 10


def test_best_first():
    table = ranking_table(*small())
    assert table["mean_rank"].is_monotonic_increasing
    assert table["bootstrap_share_first"].sum() >= 1


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"adjust": "none"}, "not adjusted for the 12 tests"),
        ({"adjust": "holm"}, "Holm's step-down"),
        ({"missing": "remove"}, "is left out of that algorithm's comparisons"),
        ({"missing": "worst"}, "0 in DSC, less than any value in NAVE"),
        ({"mode": "unique"}, "counts once"),
        ({"mode": "multiplicity"}, "as often as it was drawn"),
    ],
)
def test_the_methods_say_what_was_done(choice, sentence):
    assert sentence in " ".join(methods_text(*small(**choice)))


def test_weak_bootstraps_are_announced():
    ranking = rank_challenge(read_challenge([GOLDEN / "synth_full.csv"]), adjust="holm")
    samples = bootstrap_ranking(ranking, samples=60, progress=False)
    text = " ".join(report_warnings(ranking, samples))
    assert re.search(r"no pair differs significantly.*DSC_seen \d+%.*14\.7 of 23", text)


def test_a_page_escapes_everything():
    page = Page("<t>")
    page.alert("<a>")
    page.note("<n>")
    page.settings({"<k>": "<v>"})
    page.section("s", "<s>")
    page.paragraph("<p1>")
    page.table(pd.DataFrame({"<c>": ["<x>"]}))
    page.figure("data:,", '"<f>')
    text = page.text()
    assert not re.search(r"<(t|a|n|k|v|s|p1|c|x|f)>", text)


@pytest.mark.browser
def test_the_report_opens_in_a_browser(written, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} on the PATH")
    options = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    # A copy alone in a folder: nothing of the report may lie beside it.
    alone = tmp_path / "alone" / "report.html"
    alone.parent.mkdir()
    shutil.copy(written[2], alone)
    dom = subprocess.run(
        [*options, "--dump-dom", alone.as_uri()], capture_output=True, timeout=120, check=True
    ).stdout.decode()
    assert dom.count("<img") == 10
    assert "Phantom data" in dom
    picture = tmp_path / "page.png"
    subprocess.run(
        [*options, f"--screenshot={picture}", "--window-size=1200,2600", alone.as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    from matplotlib.image import imread

    pixels = imread(picture)[..., :3]
    assert pixels.shape[:2] == (2600, 1200)
    # Figures were drawn, not only their frames: the blobs' blue is on the page.
    blue = (pixels[..., 2] > 0.7) & (pixels[..., 0] < 0.6) & (pixels[..., 1] < 0.8)
    assert blue.sum() > 1000

"""What may be learnt from together, and what is refused: on parts that are made up here."""

from __future__ import annotations

from pathlib import Path

import pytest

from covidseg.core.errors import ConfigError, SplitError
from covidseg.engine.cache import TrainingCase
from covidseg.engine.task_data import Part, Row
from covidseg.generalization import sources
from covidseg.generalization.sources import read_sources
from covidseg.registry.cases import HU
from covidseg.splits.records import CaseRecord
from covidseg.splits.tasks import TARGETS

LUNGS, LESION = TARGETS["lung"], TARGETS["lesion"]


def part(configuration, name, cases, targets, dataset=None):
    dataset = dataset or configuration.split("-")[1]
    rows = []
    for case_id in cases:
        case = TrainingCase(case_id, Path(case_id), Path(case_id), HU, {1: 1}, dataset)
        rows.append(Row(case, dataset, case_id, f"hash of {case_id}", CaseRecord(dataset, case_id)))
    return Part(configuration, name, rows, targets, True)


@pytest.fixture
def hub(monkeypatch):
    """A repository in memory: configuration and part to cases."""
    covid = "covid-ct-seg"
    parts = [
        part("task2-structseg-lung", "train", ["train_1", "train_2"], LUNGS),
        part("task2-structseg-lung", "test_in_domain", ["train_3"], LUNGS),
        part("task2-structseg-lung", "test_covid", ["coronacases_001"], LUNGS, covid),
        part("task2-structseg-target", "train", ["train_1", "train_2"], LESION),
        part("task2-structseg-target", "test_in_domain", ["train_3"], LESION),
        part("task2-nsclc-lung", "train", ["LUNG1-001", "LUNG1-002"], LUNGS),
        part("task2-nsclc-lung", "test_in_domain", ["LUNG1-004"], LUNGS),
        part("task2-nsclc-effusion", "train", ["LUNG1-001", "LUNG1-004"], LESION),
        part("task2-nsclc-effusion", "test_in_domain", ["LUNG1-002"], LESION),
        part("task2-msd-tumour", "train", ["lung_001"], LESION),
        part("task3-msd-tumour-fold0", "train", ["lung_001", "coronacases_002"], LESION),
    ]
    covid_row = part("x-covid", "train", ["coronacases_002"], LESION, covid).rows
    parts[-1].rows[1:] = covid_row
    held = {(p.configuration, p.name): p for p in parts}

    def names(_hub, configuration):
        found = [name for of, name in held if of == configuration]
        if not found:
            raise ConfigError("the repository has no configuration")
        return found

    monkeypatch.setattr(sources, "part_names", names)
    monkeypatch.setattr(sources, "read_part", lambda _hub, c, p: held[c, p])
    return lambda *names, **others: read_sources(
        "data/hub", names, **{"without_covid": True, **others}
    )


def test_one_source_is_its_part(hub):
    found = hub("task2-structseg-lung")
    assert [case.case_id for case in found.cases] == ["train_1", "train_2"]
    assert found.targets == LUNGS
    assert found.provenance["configuration"] == "task2-structseg-lung"
    assert "left_out" not in found.provenance


def test_two_sources_of_lungs_are_put_together(hub):
    found = hub("task2-structseg-lung", "task2-nsclc-lung")
    assert [case.source for case in found.cases] == ["structseg"] * 2 + ["nsclc"] * 2
    assert found.provenance["configuration"] == "task2-structseg-lung + task2-nsclc-lung"
    assert sorted(found.provenance["cases"]) == ["LUNG1-001", "LUNG1-002", "train_1", "train_2"]
    assert found.provenance["phantom"] is True
    assert found.provenance["left_out"] == {}


def test_labels_that_are_not_the_same_are_merged_only_when_asked(hub):
    pair = ("task2-msd-tumour", "task2-structseg-target")
    with pytest.raises(ConfigError, match=r"tumour.*gross_target_volume.*one_class true.*lesion"):
        hub(*pair)
    found = hub(*pair, one_class=True)
    assert len(found.cases) == 3
    assert found.provenance["labels"]["task2-msd-tumour"] == ["tumour"]


def test_lungs_and_lesions_are_never_merged(hub):
    with pytest.raises(ConfigError, match=r"labels lesion.*left_lung, right_lung"):
        hub("task2-structseg-lung", "task2-msd-tumour", one_class=True)


def test_one_scan_with_two_label_maps(hub, monkeypatch):
    relabelled = part("task2-nsclc-lung", "train", ["train_1"], LUNGS, "structseg")
    before = sources.read_part
    monkeypatch.setattr(
        sources, "read_part",
        lambda h, c, p: relabelled if (c, p) == ("task2-nsclc-lung", "train") else before(h, c, p),
    )  # fmt: skip
    with pytest.raises(SplitError, match=r"scan train_1 is in task2-structseg-lung and in"):
        hub("task2-structseg-lung", "task2-nsclc-lung")


def test_a_patient_of_a_test_part_is_not_learnt_from(hub):
    pair = ("task2-nsclc-lung", ["task2-nsclc-effusion"])
    with pytest.raises(SplitError, match=r"patient LUNG1-002.*test_in_domain.*leave_out"):
        hub(pair[0], tested=pair[1])
    found = hub(pair[0], tested=pair[1], overlap="leave_out")
    assert [case.case_id for case in found.cases] == ["LUNG1-001"]
    assert found.provenance["left_out"] == {
        "LUNG1-002": "patient of test_in_domain of task2-nsclc-effusion"
    }
    # Between two sources too: the effusion's test patient is in the lungs' training part.
    with pytest.raises(SplitError, match=r"LUNG1-004.*and tested in"):
        hub("task2-nsclc-effusion", tested=["task2-nsclc-lung"])


@pytest.mark.parametrize(
    ("configuration", "part_", "named"),
    [
        ("task3-msd-tumour-fold0", "train", "coronacases_002"),
        ("task2-structseg-lung", "test_covid", "coronacases_001"),
    ],
)
def test_a_labelled_covid_scan_is_refused(hub, configuration, part_, named):
    for overlap in ("refuse", "leave_out"):
        with pytest.raises(SplitError, match=rf"with COVID-19, of covid-ct-seg: {named}"):
            hub(configuration, part=part_, overlap=overlap)


def test_a_missing_source_is_named_with_the_way_to_it(hub):
    with pytest.raises(ConfigError) as caught:
        hub("task2-structseg-lung", "task2-msd-tumour", tested=["task3-nsclc-effusion-fold0"])
    assert "labels lesion" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        hub("task2-structseg-lung", "task3-nsclc-lung-fold2")
    for word in ("task3-nsclc-lung-fold2", "data/hub", "covidseg datasets nsclc", "covidseg build"):
        assert word in str(caught.value)
    with pytest.raises(ConfigError, match="task2-structseg-lung"):
        hub("task2-structseg-lungs")


def test_a_source_named_twice(hub):
    with pytest.raises(ConfigError, match="named twice"):
        hub("task2-structseg-lung", "task2-structseg-lung")


def test_chosen_cases_are_of_the_first_source(hub):
    learnt = hub("task2-structseg-lung", "task2-nsclc-lung", cases=["train_2"])
    assert [case.case_id for case in learnt.cases] == ["train_2", "LUNG1-001", "LUNG1-002"]
    with pytest.raises(ConfigError, match="has no case 'train_9'"):
        hub("task2-structseg-lung", cases=["train_9"])

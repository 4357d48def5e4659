"""Every declaration of the registry is whole, and its phantoms are found and read."""

import re

import numpy as np
import pytest

from covidseg.core.errors import ConfigError
from covidseg.registry.datasets import DATASETS, dataset
from covidseg.registry.find import find_cases
from covidseg.registry.read import read_image, read_mask, to_hu
from covidseg.registry.vocabulary import LABELS
from covidseg.splits.canonical import canonical_cases, expected_counts

EVERY = pytest.mark.parametrize("entry", DATASETS.values(), ids=list(DATASETS))


@EVERY
def test_declaration_is_whole(entry):
    assert re.fullmatch(r"[a-z0-9-]+", entry.key)
    assert entry.licence.url.startswith("https://")
    assert entry.citations
    assert all(citation.text for citation in entry.citations)
    assert all(page.startswith("http") for page in entry.homepages)
    assert entry.tasks
    assert entry.intensity
    assert entry.downloads or entry.steps
    assert type(entry).__module__ in str(entry.__class__)
    assert set(entry.expected_masks) <= set(entry.expected_counts)
    for names in entry.expected_masks.values():
        assert set(names) <= set(entry.annotations)


@EVERY
def test_labels_are_of_the_vocabulary(entry):
    for annotation in entry.annotations.values():
        assert set(annotation.labels.values()) <= set(LABELS)
        assert 0 not in annotation.labels
        assert set(annotation.structures.values()) <= set(annotation.labels)


@EVERY
def test_downloads_have_checksums(entry):
    for item in entry.downloads:
        assert item.url.startswith("https://")
        assert re.fullmatch(r"[0-9a-f]{64}", item.sha256)
        assert re.fullmatch(r"([0-9a-f]{32})?", item.md5)


@EVERY
def test_expected_ids_are_as_many_as_published(entry):
    for cohort in entry.listed_cohorts:
        assert len(entry.expected_ids(cohort)) == entry.expected_counts[cohort]
        assert set(entry.expected_ids(cohort)) == set(canonical_cases(entry.key))
    for cohort, count in expected_counts(entry.key).items():
        assert entry.expected_counts[cohort] == count


@EVERY
def test_roles_of_patterns_are_annotations(entry):
    for pattern in entry.patterns:
        pattern.folder_expression.search("x")
        pattern.file_expression.search("x")


@pytest.mark.parametrize(
    ("name", "key"),
    [("COVID-19-CT-Seg", "covid-ct-seg"), ("plethora", "nsclc"), (" msd ", "msd")],
)
def test_datasets_are_known_by_several_names(name, key):
    assert dataset(name).key == key


def test_unknown_dataset_is_refused_with_a_guess():
    with pytest.raises(ConfigError, match=r"one of covid-ct-seg.*Did you mean structseg\?"):
        dataset("strucseg")


@EVERY
def test_phantoms_are_found(entry, phantoms):
    found = find_cases(phantoms)
    cohorts = set(entry.expected_counts) | set(found.counts(entry.key))
    assert {cohort for cohort in cohorts if found.counts(entry.key)[cohort]} == cohorts
    assert not found.duplicates
    assert not found.masks_without_image
    assert not found.masks_twice
    assert not found.ignored
    for case in found.of(entry.key):
        assert set(entry.expected_masks.get(case.cohort, ())) <= set(case.masks)


@EVERY
def test_phantoms_are_read(entry, phantoms):
    for case in find_cases(phantoms, [entry.key]).cases:
        image = read_image(case)
        assert image.data.ndim == 3
        if case.intensity.scale != "picture":
            hu = to_hu(image, case.intensity).data
            assert hu.min() < -500
            assert hu.max() > 100
        for name, mask in case.masks.items():
            labels = read_mask(case, name, grid=image)
            assert labels.shape == image.shape
            assert labels.data.dtype == np.uint8
            np.testing.assert_allclose(labels.affine, image.affine)
            assert set(np.unique(labels.data)) <= {0, *mask.labels}

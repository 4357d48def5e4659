"""One drawing: its anatomy, lesions and intensities, at every sampling and in any order."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from covidseg.imaging.content import content_hash
from covidseg.registry.phantom import sources
from covidseg.registry.phantom.draws import Noise, generator
from covidseg.registry.phantom.grid import Grid, oriented, refine
from covidseg.registry.phantom.layouts import ct_seg_scan
from covidseg.registry.phantom.scan import SIZES, Patient, Size, draw_scan

TINY = SIZES["tiny"]
MIDDLE = Size("middle", 80, 32)
ALL = ("lungs", "infection", "infection_kind", "tumour", "effusion", "organs")


def litres(mask, scan):
    return mask.sum() * abs(np.linalg.det(scan.affine[:3, :3])) / 1e6


@pytest.fixture(scope="module")
def covid():
    return ct_seg_scan(0, "coronacases_002", MIDDLE)


@pytest.fixture(scope="module")
def cancer():
    patient = Patient.draw(0, sources.NSCLC, "somebody", effusion=True)
    return draw_scan(patient, sources.NSCLC, "somebody", MIDDLE, ALL)


HASHES = """
import sys
from covidseg.imaging.content import content_hash
from covidseg.registry.phantom.layouts import ct_seg_scan
from covidseg.registry.phantom.scan import SIZES
for case in sys.argv[1:]:
    scan = ct_seg_scan(3, case, SIZES["tiny"])
    print(case, content_hash(scan.image), content_hash(scan.masks["infection"]))
"""


def test_a_case_is_the_same_in_another_process_and_in_another_order():
    cases = ["coronacases_001", "radiopaedia_4_85506_1", "coronacases_007"]
    runs = [
        subprocess.run(
            [sys.executable, "-c", HASHES, *order], capture_output=True, text=True, check=True
        ).stdout.split("\n")
        for order in (cases, cases[::-1])
    ]
    assert sorted(runs[0]) == sorted(runs[1])
    assert len({line.split()[1] for line in runs[0] if line}) == 3


def test_seed_and_case_change_the_drawing():
    first = ct_seg_scan(0, "coronacases_001", TINY).image
    assert content_hash(first) == content_hash(ct_seg_scan(0, "coronacases_001", TINY).image)
    assert content_hash(first) != content_hash(ct_seg_scan(1, "coronacases_001", TINY).image)


def test_two_series_of_one_patient_share_the_anatomy_but_not_the_pixels():
    one, other = (
        Patient.draw(0, sources.RADIOPAEDIA, "radiopaedia_10_85902").chest for _ in range(2)
    )
    assert one == other
    first = ct_seg_scan(0, "radiopaedia_10_85902_1", TINY)
    third = ct_seg_scan(0, "radiopaedia_10_85902_3", TINY)
    stranger = ct_seg_scan(0, "radiopaedia_4_85506_1", TINY)
    volumes = [litres(scan.masks["lungs"] > 0, scan) for scan in (first, third, stranger)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.05)
    assert abs(volumes[0] - volumes[2]) > 0.1
    assert content_hash(first.image) != content_hash(third.image)
    # Days later, lesions have shrunk.
    assert litres(third.masks["infection"], third) < litres(first.masks["infection"], first)


def test_every_sampling_shows_the_same_patient(covid):
    tiny = ct_seg_scan(0, "coronacases_002", TINY)
    for value in (1, 2):
        coarse, fine = (litres(s.masks["lungs"] == value, s) for s in (tiny, covid))
        assert coarse == pytest.approx(fine, rel=0.06)
    coarse, fine = (litres(s.masks["infection"], s) for s in (tiny, covid))
    assert coarse == pytest.approx(fine, rel=0.2)


def test_organs_computed_coarsely_keep_their_place():
    patient = Patient.draw(0, sources.STRUCTSEG, "somebody")
    drawn = [
        draw_scan(patient, sources.STRUCTSEG, "x", size, ("lungs",)).masks["lungs"] > 0
        for size in (Size("a", 120, 16, work_mm=1.0), Size("a", 120, 16, work_mm=6.0))
    ]
    dice = 2 * (drawn[0] & drawn[1]).sum() / (drawn[0].sum() + drawn[1].sum())
    assert 0.97 < dice < 1


def test_left_lung_is_on_the_patients_left_and_the_smaller_one(covid, cancer):
    for scan in (covid, cancer):
        centre = {}
        for value in (1, 2):
            voxels = np.argwhere(scan.masks["lungs"] == value).mean(0)
            centre[value] = (scan.affine @ [*voxels, 1])[0]
        assert centre[1] < centre[2] - 80
        left, right = (litres(scan.masks["lungs"] == value, scan) for value in (1, 2))
        assert 1.0 < left < right < 4.0


def test_lungs_have_the_hounsfield_units_of_lungs(cancer):
    healthy = (
        (cancer.masks["lungs"] > 0)
        & (cancer.masks["tumour"] == 0)
        & (cancer.masks["effusion"] == 0)
    )
    values = np.percentile(cancer.image[healthy], [5, 25, 50, 75])
    # A real planning CT (LUNG1-001) has -956, -899, -850, -768.
    assert np.all(np.abs(values - [-956, -899, -850, -768]) < [70, 60, 60, 90])
    assert cancer.image.min() >= -1024
    assert cancer.image.max() <= 3071
    assert cancer.image.dtype == np.int16


def test_infection_lies_in_the_lungs_and_is_denser_than_they_are(covid):
    infection, lungs = covid.masks["infection"] > 0, covid.masks["lungs"] > 0
    assert infection.any()
    assert not (infection & ~lungs).any()
    assert 0.01 < infection.sum() / lungs.sum() < 0.6
    assert covid.image[infection].mean() > covid.image[lungs & ~infection].mean() + 150
    # More of it behind than in front.
    y = np.argwhere(infection)[:, 1].mean()
    assert y < np.argwhere(lungs)[:, 1].mean()


def test_kinds_of_infection_are_parts_of_it_and_consolidation_is_denser():
    patient = Patient.draw(0, sources.SEMISEG, "somebody", severity=0.3)
    scan = draw_scan(patient, sources.SEMISEG, "x", MIDDLE, ALL)
    infection, kind = scan.masks["infection"], scan.masks["infection_kind"]
    assert np.array_equal(kind > 0, infection > 0)
    assert set(np.unique(kind)) == {0, 1, 2}
    assert scan.image[kind == 2].mean() > scan.image[kind == 1].mean() + 200


def test_effusion_is_fluid_in_the_lowest_part_of_one_cavity(cancer):
    fluid, lungs = cancer.masks["effusion"] > 0, cancer.masks["lungs"]
    assert not (fluid & (lungs == 0)).any()
    sides = np.unique(lungs[fluid])
    assert len(sides) == 1
    cavity = lungs == sides[0]
    # It lies behind (the patient is on the back): below it, towards the back, is no lung.
    y_fluid, y_lung = np.argwhere(fluid)[:, 1], np.argwhere(cavity & ~fluid)[:, 1]
    assert np.percentile(y_fluid, 95) < np.percentile(y_lung, 60)
    columns = [
        (np.flatnonzero(cavity[x, :, z])[0], np.flatnonzero(fluid[x, :, z])[0])
        for x, z in np.unique(np.argwhere(fluid)[:, [0, 2]], axis=0)
    ]
    assert np.mean([lowest == wet for lowest, wet in columns]) > 0.97
    assert -60 < np.median(cancer.image[fluid]) < 60


def test_tumours_are_solid_and_touch_the_lungs(cancer):
    tumour = cancer.masks["tumour"] > 0
    assert tumour.any()
    assert -120 < np.median(cancer.image[tumour]) < 120
    assert (tumour & (cancer.masks["lungs"] > 0)).sum() > 0.7 * tumour.sum()


def test_organs_are_where_they_belong(cancer):
    organs = cancer.masks["organs"]
    assert set(np.unique(organs)) == {0, 1, 2, 3, 4, 5, 6}
    centre = {value: np.argwhere(organs == value).mean(0) for value in range(1, 7)}
    assert centre[1][0] < centre[3][0] < centre[2][0]  # heart between the lungs
    assert centre[6][1] < centre[4][1] < centre[3][1]  # cord, oesophagus, heart: back to front
    assert centre[5][2] > centre[3][2]  # trachea above the heart
    assert np.median(cancer.image[organs == 5]) < -800


def test_a_lesion_smaller_than_a_voxel_is_one_voxel():
    scan = ct_seg_scan(0, "radiopaedia_29_86490_1", TINY)
    assert 1 <= scan.masks["infection"].sum() < 0.01 * (scan.masks["lungs"] > 0).sum()


def test_the_unseen_source_is_visibly_another():
    def spread(source):
        values = []
        for k in range(3):
            patient = Patient.draw(0, source, str(k)).without_covid()
            scan = draw_scan(patient, source, str(k), MIDDLE, ("organs",))
            blood = scan.image[scan.masks["organs"] == 3]
            values.append([blood.mean(), blood.std()])
        return np.mean(values, axis=0)

    seen, unseen = spread(sources.COVID1920_SEEN), spread(sources.COVID1920_UNSEEN)
    assert unseen[0] > seen[0] + 40  # contrast agent and calibration
    assert unseen[1] > 1.5 * seen[1]  # noise of a sharp kernel


def test_noise_is_fixed_in_the_patient_not_in_the_grid():
    noise = Noise(0, "somebody")
    fine = Grid((-30.0, -20.0, -10.0), (2.0, 2.0, 2.0), (31, 21, 11))
    coarse = Grid((-30.0, -20.0, -10.0), (4.0, 4.0, 4.0), (16, 11, 6))
    expected = noise(fine, "a", 9.0)[::2, ::2, ::2]
    np.testing.assert_allclose(noise(coarse, "a", 9.0), expected, atol=1e-5)
    np.testing.assert_allclose(
        noise(fine.slices(4, 7), "a", 9.0), noise(fine, "a", 9.0)[:, :, 4:7], atol=1e-5
    )
    wide = Grid((-200.0, -200.0, -100.0), (7.0, 7.0, 7.0), (50, 50, 30))
    assert noise(wide, "b", 11.0).std() == pytest.approx(1, abs=0.15)
    assert noise(wide, "b", 11.0).mean() == pytest.approx(0, abs=0.1)


def test_generators_depend_on_every_name():
    draws = [generator(*key).random() for key in ((0, "a", "b"), (0, "ab"), (1, "a", "b"))]
    assert len(set(draws)) == 3
    assert generator(0, "a", "b").random() == draws[0]


@pytest.mark.parametrize("code", ["RAS", "LPS", "LAS", "PLI", "SRA"])
def test_orientation_changes_the_storage_and_not_the_place(code):
    import nibabel as nib

    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    affine[:3, 3] = (7, -4, 100)
    stored, where = oriented(array, affine, code)
    assert "".join(nib.aff2axcodes(where)) == code
    for index in np.ndindex(stored.shape):
        original = np.linalg.solve(affine, where @ [*index, 1])[:3]
        assert array[tuple(np.rint(original).astype(int))] == stored[index]


def test_refining_reproduces_a_plane():
    x, y = np.meshgrid(np.linspace(0, 1, 5), np.linspace(0, 2, 4), indexing="ij")
    field = np.repeat((3 * x - y)[:, :, None], 2, axis=2).astype(np.float32)
    fx, fy = np.meshgrid(np.linspace(0, 1, 17), np.linspace(0, 2, 13), indexing="ij")
    np.testing.assert_allclose(refine(field, (17, 13, 2))[:, :, 1], 3 * fx - fy, atol=1e-5)

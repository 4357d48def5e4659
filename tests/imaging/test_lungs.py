"""Air inside the body, on a chest made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from covidseg.imaging.lungs import aerated_lungs, surrounding_air

SPACING = (4.0, 4.0, 10.0)


def chest():
    """A body of 40 × 40 × 6 voxels in air, with two lungs, a vessel, and a bubble in the bowel."""
    hu = np.full((60, 60, 6), -1000.0)
    hu[10:50, 10:50] = 40.0
    lungs = np.zeros(hu.shape, bool)
    lungs[14:26, 15:45] = lungs[34:46, 15:45] = True
    hu[lungs] = -850.0
    hu[20, 30] = 40.0  # a vessel along the lung
    hu[29:31, 29:31, 0:2] = -900.0  # a bubble
    return hu, lungs


def test_lungs_with_their_vessels_and_nothing_else():
    hu, lungs = chest()
    np.testing.assert_array_equal(aerated_lungs(hu, SPACING), lungs)


def test_lungs_reach_to_the_first_and_last_slice():
    hu, _ = chest()
    found = aerated_lungs(hu, SPACING)
    assert found[..., 0].any()
    assert found[..., -1].any()


def test_a_hole_to_the_outside_is_no_lung():
    hu, lungs = chest()
    hu[:15, 30] = -1000.0  # through the chest wall into the first lung
    found = aerated_lungs(hu, SPACING)
    assert not found[14:20].any()
    np.testing.assert_array_equal(found[34:46], lungs[34:46])


def test_gas_in_the_bowel_is_no_lung():
    hu, _ = chest()
    hu[:15, 30] = hu[45:, 30] = -1000.0  # both lungs leak; the bubble is left
    assert not aerated_lungs(hu, SPACING).any()
    # Lungs are a matter of litres, not of voxels: these would be a mouse's.
    assert not aerated_lungs(chest()[0], (0.4, 0.4, 1.0)).any()


@pytest.mark.parametrize("axial", [0, 1, 2])
def test_the_air_around_a_patient_is_what_reaches_an_edge_in_plane(axial):
    hu, lungs = chest()
    around = hu == -1000
    turned = [np.moveaxis(array, 2, axial) for array in (hu < -400, around)]
    np.testing.assert_array_equal(surrounding_air(turned[0], axial), turned[1])
    hu[:15, 30] = -1000.0  # a lung that leaks is around the patient too
    leaking = surrounding_air(hu < -400)
    assert leaking[14:20, 31:45].all()
    assert not leaking[34:46][lungs[34:46]].any()


@pytest.mark.parametrize("value", [-1000.0, 40.0])
def test_without_air_inside_a_body_there_is_none(value):
    assert not aerated_lungs(np.full((8, 8, 3), value), SPACING).any()


def test_a_phantoms_lungs_are_found(tmp_path):
    from covidseg.registry.find import find_cases
    from covidseg.registry.phantom.generate import write_phantoms
    from covidseg.registry.read import read_image, read_mask

    write_phantoms(tmp_path, "tiny", datasets=["structseg"], progress=False, workers=1)
    case = find_cases(tmp_path, ["structseg"]).of("structseg", "organs")[0]
    image = read_image(case)
    true = read_mask(case, "organs", grid=image).data
    lungs = np.isin(true, [v for v, name in case.masks["organs"].labels.items() if "lung" in name])
    found = aerated_lungs(image.data, image.spacing_mm)
    assert 2 * (found & lungs).sum() / (found.sum() + lungs.sum()) > 0.9


@pytest.mark.real
def test_real_lungs_are_found(real_data):
    from covidseg.registry.find import find_cases
    from covidseg.registry.read import read_image, read_mask

    case = find_cases(real_data, ["nsclc"]).cases[0]
    image = read_image(case)
    true = np.isin(read_mask(case, "structures", grid=image).data, (1, 2))
    found = aerated_lungs(image.data, image.spacing_mm)
    dice = 2 * (found & true).sum() / (found.sum() + true.sum())
    assert dice > 0.9


@pytest.mark.real
def test_real_lungs_are_found_at_four_millimetres(real_data):
    from covidseg.imaging.nifti import read_nifti
    from covidseg.imaging.resample import reorient

    folder = real_data / "chest-imaging-platform"
    image = reorient(read_nifti(folder / "ct64.nii.gz"), "LPS")
    true = reorient(read_nifti(folder / "ct64_lungs.nii.gz"), "LPS").data > 0
    found = aerated_lungs(image.data, image.spacing_mm)
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.95

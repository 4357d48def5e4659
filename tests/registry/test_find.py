import os

import numpy as np
import pytest

from covidseg.core.errors import LayoutError
from covidseg.registry.find import find_cases
from covidseg.registry.tree import Predictions

# Layout, its files, and the cases they are: (dataset, cohort, case ID) -> names of masks.
LAYOUTS = {
    "Zenodo": (
        [
            "COVID-19-CT-Seg_20cases/coronacases_001.nii.gz",
            "COVID-19-CT-Seg_20cases/radiopaedia_10_85902_1.nii.gz",
            "Lung_Mask/coronacases_001.nii.gz",
            "Infection_Mask/coronacases_001.nii.gz",
            "Lung_and_Infection_Mask/coronacases_001.nii.gz",
        ],
        {
            ("covid-ct-seg", "labelled", "coronacases_001"): "infection lung lung_and_infection",
            ("covid-ct-seg", "labelled", "radiopaedia_10_85902_1"): "",
        },
    ),
    "Zenodo, archives with a folder inside": (
        [
            "a/COVID-19-CT-Seg_20cases/COVID-19-CT-Seg_20cases/coronacases_001.nii.gz",
            "a/Lung_Mask/Lung_Mask/coronacases_001.nii.gz",
        ],
        {("covid-ct-seg", "labelled", "coronacases_001"): "lung"},
    ),
    "Zenodo, masks within the folder of scans": (
        [
            "COVID-19-CT-Seg_20cases/coronacases_001.nii.gz",
            "COVID-19-CT-Seg_20cases/Lung_Mask/coronacases_001.nii.gz",
        ],
        {("covid-ct-seg", "labelled", "coronacases_001"): "lung"},
    ),
    "Kaggle": (
        [
            "archive/ct_scans/coronacases_org_001.nii",
            "archive/ct_scans/radiopaedia_org_covid-19-pneumonia-14_85914_0-dcm.nii",
            "archive/lung_mask/coronacases_001.nii",
            "archive/infection_mask/radiopaedia_14_85914_0.nii",
            "archive/lung_and_infection_mask/coronacases_001.nii",
        ],
        {
            ("covid-ct-seg", "labelled", "coronacases_001"): "lung lung_and_infection",
            ("covid-ct-seg", "labelled", "radiopaedia_14_85914_0"): "infection",
        },
    ),
    "Kaggle, nested": (
        [
            "ct_scans/coronacases_org_001.nii/coronacases_org_001.nii",
            "lung_mask/coronacases_001.nii/coronacases_001.nii",
        ],
        {("covid-ct-seg", "labelled", "coronacases_001"): "lung"},
    ),
    "MosMed": (
        [
            "COVID19_1110/studies/CT-0/study_0001.nii.gz",
            "COVID19_1110/studies/CT-1/study_0255.nii.gz",
            "COVID19_1110/masks/study_0255_mask.nii.gz",
        ],
        {
            ("mosmed", "unlabelled", "study_0001"): "",
            ("mosmed", "labelled", "study_0255"): "infection",
        },
    ),
    "MosMed, flat": (
        ["CT-1/study_0255.nii", "CT-4/study_1110.nii", "masks/study_0255_mask.nii"],
        {
            ("mosmed", "labelled", "study_0255"): "infection",
            ("mosmed", "unlabelled", "study_1110"): "",
        },
    ),
    "StructSeg": (
        [
            f"{task}/{number}/{name}.nii.gz"
            for task in ("Task3_Thoracic_OAR", "Task4_Lung_GTV", "Task1_HaN_OAR", "Task2_Naso_GTV")
            for number in (1, 50)
            for name in ("data", "label")
        ],
        {
            ("structseg", "organs", "train_1"): "organs",
            ("structseg", "organs", "train_50"): "organs",
            ("structseg", "target_volume", "train_1"): "target_volume",
            ("structseg", "target_volume", "train_50"): "target_volume",
        },
    ),
    "StructSeg, one more folder": (
        [
            "Task4_Lung_GTV/Lung_GTV/7/data.nii.gz",
            "Task4_Lung_GTV/Lung_GTV/7/label.nii.gz",
            "Thoracic_OAR/7/data.nii.gz/data.nii",
            "Thoracic_OAR/7/label.nii.gz/label.nii",
        ],
        {
            ("structseg", "target_volume", "train_7"): "target_volume",
            ("structseg", "organs", "train_7"): "organs",
        },
    ),
    "NSCLC, PleThora and TCIA": (
        [
            "NSCLC-Radiomics/LUNG1-001/study/0.000000-NA-82046/1-001.dcm",
            "NSCLC-Radiomics/LUNG1-001/study/0.000000-NA-82046/1-002.dcm",
            "NSCLC-Radiomics/LUNG1-001/study/0.000000-NA-82046/1-003.dcm",
            "NSCLC-Radiomics/LUNG1-001/study/0.000000-NA-82046/1-004.dcm",
            "m/Thoracic_Cavities/LUNG1-001/LUNG1-001_thor_cav_primary_reviewer.nii.gz",
            "m/Effusions/LUNG1-001/LUNG1-001_effusion_first_reviewer.nii.gz",
            "m/Effusions/LUNG1-001/LUNG1-001_effusion_second_reviewer.nii.gz",
        ],
        {
            (
                "nsclc",
                "labelled",
                "LUNG1-001",
            ): "lung pleural_effusion pleural_effusion_second_reviewer"
        },
    ),
    "NSCLC, converted": (
        [
            "images/LUNG1-001.nii.gz",
            "lung_masks/LUNG1-001.nii.gz",
            "side/LUNG1-002.nii.gz",
            "side/LUNG1-002_lung.nii.gz",
        ],
        {("nsclc", "labelled", "LUNG1-001"): "lung", ("nsclc", "labelled", "LUNG1-002"): "lung"},
    ),
    "MSD": (
        [
            "Task06_Lung/imagesTr/lung_001.nii.gz",
            "Task06_Lung/imagesTr/._lung_001.nii.gz",
            "Task06_Lung/labelsTr/lung_001.nii.gz",
            "Task06_Lung/labelsTr/._lung_001.nii.gz",
            "Task06_Lung/lungsTr/lung_001.nii.gz",
            "Task06_Lung/imagesTs/lung_002.nii.gz",
        ],
        {("msd", "labelled", "lung_001"): "lung tumour", ("msd", "unlabelled", "lung_002"): ""},
    ),
    "COVID-19-20, below a folder that is called as pools are": (
        [
            "unlabelled/COVID-19-20_v2/Train/volume-covid19-A-0047_1_ct.nii.gz",
            "unlabelled/COVID-19-20_v2/Train/volume-covid19-A-0047_1_seg.nii.gz",
            "unlabelled/COVID-19-20_v2/Validation/volume-covid19-A-0189_0_ct.nii.gz",
            "unlabelled/volume-covid19-A-0700.nii.gz",
        ],
        {
            ("covid1920", "train", "volume-covid19-A-0047_1"): "infection",
            ("covid1920", "validation", "volume-covid19-A-0189_0"): "",
            ("covid1920", "unlabelled", "volume-covid19-A-0700"): "",
        },
    ),
    "COVID-19-20": (
        [
            "COVID-19-20_v2/Train/volume-covid19-A-0047_1_ct.nii.gz",
            "COVID-19-20_v2/Train/volume-covid19-A-0047_1_seg.nii.gz",
            "COVID-19-20_v2/Validation/volume-covid19-A-0189_0_ct.nii.gz",
            "COVID-19-20_TestSet/volume-covid19-A-0014.nii.gz",
            "COVID-19-20_TestSet/volume-covid19-AR-0003_ct.nii.gz",
            "COVID-19-20_TestSet/volume-covid19-AR-0003_seg.nii.gz",
            "CT-Images-in-COVID-19/volume-covid19-A-0700.nii.gz",
            "tcia/CT Images in COVID-19/volume-covid19-A-0701/study/series/1-1.dcm",
            "tcia/CT Images in COVID-19/volume-covid19-A-0701/study/series/1-2.dcm",
        ],
        {
            ("covid1920", "train", "volume-covid19-A-0047_1"): "infection",
            ("covid1920", "validation", "volume-covid19-A-0189_0"): "",
            ("covid1920", "test_seen", "volume-covid19-A-0014"): "",
            ("covid1920", "test_unseen", "volume-covid19-AR-0003"): "infection",
            ("covid1920", "unlabelled", "volume-covid19-A-0700"): "",
            ("covid1920", "unlabelled", "volume-covid19-A-0701"): "",
        },
    ),
    "COVID-SemiSeg": (
        [
            "Dataset/TrainingSet/LungInfection-Train/Doctor-label/Imgs/0.jpg",
            "Dataset/TrainingSet/LungInfection-Train/Doctor-label/GT/0.png",
            "Dataset/TrainingSet/LungInfection-Train/Pseudo-label/Imgs/Data-1_coronacases_org_001_1.jpg",
            "Dataset/TrainingSet/LungInfection-Train/Pseudo-label/GT/Data-1_coronacases_org_001_1.png",
            "Dataset/TrainingSet/MultiClassInfection-Train/Imgs/0.jpg",
            "Dataset/TrainingSet/MultiClassInfection-Train/GT/0.png",
            "Dataset/TestingSet/MultiClassInfection-Test/Imgs/3.jpg",
            "Dataset/TestingSet/MultiClassInfection-Test/GT/3.png",
        ],
        {
            ("semiseg", "train", "0"): "infection lesion_types",
            ("semiseg", "unlabelled", "Data-1_coronacases_org_001_1"): "",
            ("semiseg", "test", "3"): "lesion_types",
        },
    ),
}


def found_by_id(found):
    return {
        (case.dataset, case.cohort, case.case_id): " ".join(sorted(case.masks))
        for case in found.cases
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_found_wherever_it_lies(layout, tmp_path, hand):
    files, expected = LAYOUTS[layout]
    hand.touch(tmp_path / "some" / "where", *files)
    found = find_cases(tmp_path)
    assert found_by_id(found) == expected
    assert len(found.cases) == len(expected)
    assert not found.duplicates
    assert not found.masks_without_image
    assert not found.masks_twice


@pytest.mark.parametrize("layout", LAYOUTS)
def test_root_may_be_the_layout_itself(layout, tmp_path, hand):
    files, expected = LAYOUTS[layout]
    hand.touch(tmp_path, *files)
    assert found_by_id(find_cases(tmp_path)) == expected


def test_all_layouts_below_one_root(tmp_path, hand):
    expected = {}
    for number, (files, cases) in enumerate(LAYOUTS.values()):
        hand.touch(tmp_path / str(number + 100), *files)
        expected.update(cases)
    found = find_cases(tmp_path)
    assert found_by_id(found).keys() == expected.keys()
    # The head-and-neck tasks of StructSeg and predictions are no data of ours.
    assert {entry.folder.parent.name for entry in found.ignored} == {
        "Task1_HaN_OAR",
        "Task2_Naso_GTV",
        "Pseudo-label",
    }


def test_two_copies_are_both_returned_and_reported(tmp_path, hand):
    hand.touch(tmp_path, *LAYOUTS["Zenodo"][0])
    hand.touch(tmp_path / "kaggle", *LAYOUTS["Kaggle"][0])
    found = find_cases(tmp_path)
    assert [duplicate.case_id for duplicate in found.duplicates] == ["coronacases_001"]
    zenodo, kaggle = sorted(found.duplicates[0].cases, key=lambda case: case.layout, reverse=True)
    assert (zenodo.layout, kaggle.layout) == ("Zenodo", "Kaggle")
    # Each keeps the masks of its own copy.
    assert zenodo.masks["lung"].path == tmp_path / "Lung_Mask/coronacases_001.nii.gz"
    assert kaggle.masks["lung"].path == tmp_path / "kaggle/archive/lung_mask/coronacases_001.nii"
    with pytest.raises(LayoutError, match="coronacases_001 is there 2 times"):
        found.require_unique()


def test_sources_and_intensities_of_covid_ct_seg(tmp_path, hand):
    hand.touch(tmp_path, *LAYOUTS["Zenodo"][0])
    corona, radiopaedia = find_cases(tmp_path).cases
    assert (corona.source, corona.intensity.scale) == ("coronacases", "hu")
    assert radiopaedia.source == "radiopaedia"
    assert radiopaedia.intensity.window_hu == (-1250, 250)
    assert radiopaedia.patient_id == "radiopaedia_10_85902"


def test_patients(tmp_path, hand):
    hand.touch(tmp_path, *LAYOUTS["COVID-19-20"][0], *LAYOUTS["COVID-SemiSeg"][0])
    patients = {case.case_id: case.patient_id for case in find_cases(tmp_path).cases}
    assert patients["volume-covid19-A-0047_1"] == "volume-covid19-A-0047"
    assert patients["Data-1_coronacases_org_001_1"] == "coronacases_001"


def test_table_decides_the_source_of_test_scans(tmp_path, hand):
    hand.touch(tmp_path, *LAYOUTS["COVID-19-20"][0])
    table = tmp_path / "test_sources.csv"
    table.write_text("case_id,source\nvolume-covid19-A-0014,unseen\n")
    found = find_cases(tmp_path)
    assert found.counts("covid1920")["test_unseen"] == 2
    assert {case.source for case in found.of("covid1920", "test_unseen")} == {"unseen"}
    table.unlink()
    table = tmp_path / "Test_Sources.csv"
    table.write_text("case_id,source\na-0014,unseen\n")  # shorter, and in another case
    assert find_cases(tmp_path).counts("covid1920")["test_unseen"] == 2
    table.write_text("case_id,source\nscan14,unseen\n")
    with pytest.raises(LayoutError, match=r"names no test scan found, but scan14.*A-0014"):
        find_cases(tmp_path)
    table.write_text("case_id,source\nvolume-covid19-A-0014,B\n")
    with pytest.raises(LayoutError, match=r"Test_Sources\.csv.*seen or unseen"):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    ("folder", "layout"),
    [
        ("COVID-19-20_v2", "version 2"),
        ("COVID-19-20/COVID-19-20_v2", "version 2"),
        ("COVID-19-20_v1", "version 1"),
        ("challenge", "version not stated"),
    ],
)
def test_version_of_covid1920_is_by_the_folder(folder, layout, tmp_path, hand):
    hand.touch(tmp_path, f"{folder}/Train/volume-covid19-A-0003_ct.nii.gz")
    assert find_cases(tmp_path).cases[0].layout == layout


def test_structseg_without_a_telling_name_is_told_by_its_labels(tmp_path, hand):
    for folder, top in (("x", 1), ("y", 6)):
        label = np.zeros((4, 4, 4), np.uint8)
        label[0, 0, 0] = top
        hand.put(tmp_path / folder / "1" / "label.nii.gz", label)
        hand.touch(tmp_path, f"{folder}/1/data.nii.gz", f"{folder}/2/data.nii.gz")
    hand.touch(tmp_path, "z/1/data.nii.gz", "z/1/label.nii.gz")
    found = find_cases(tmp_path)
    assert found.counts("structseg") == {"organs": 2, "target_volume": 2}
    assert [entry.folder for entry in found.ignored] == [tmp_path / "z" / "1"]


def test_series_laid_out_by_uid_are_told_by_their_tags(tmp_path, hand):
    from covidseg.imaging.dicom import write_series
    from covidseg.imaging.volume import Volume

    for number, patient in enumerate(("LUNG1-005", "somebody else")):
        write_series(
            tmp_path / f"1.3.6.{number}",
            Volume(hand.scan(), np.diag([-1.5, -1.5, 5.0, 1.0])),
            patient_id=patient,
            study_uid="1.2.3",
            series_uid=f"1.2.3.{number}",
            frame_of_reference_uid="1.2.3.9",
        )
    found = find_cases(tmp_path)
    assert [(case.case_id, case.image.name) for case in found.cases] == [("LUNG1-005", "1.3.6.0")]
    assert [entry.folder.name for entry in found.ignored] == ["1.3.6.1"]


def test_masks_without_image_are_reported(tmp_path, hand):
    hand.touch(tmp_path, "masks/study_0255_mask.nii.gz", "CT-1/study_0256.nii.gz")
    found = find_cases(tmp_path)
    assert [(key, piece.case_id) for key, piece in found.masks_without_image] == [
        ("mosmed", "study_0255")
    ]


def test_second_mask_is_reported_not_merged(tmp_path, hand):
    hand.touch(
        tmp_path,
        "CT-1/study_0255.nii.gz",
        "masks/study_0255_mask.nii.gz",
        "copy/masks/study_0255_mask.nii.gz",
    )
    found = find_cases(tmp_path)
    # The one nearest to the scan is used, whatever the order of their names.
    assert found.cases[0].masks["infection"].path == tmp_path / "masks/study_0255_mask.nii.gz"
    assert [path for _, _, path in found.masks_twice] == [
        tmp_path / "copy/masks/study_0255_mask.nii.gz"
    ]


def test_a_second_mask_may_be_a_link_to_nowhere(tmp_path, hand):
    hand.touch(tmp_path, "CT-1/study_0255.nii.gz", "masks/study_0255_mask.nii.gz")
    # As annexes of Git leave files that were not fetched.
    link = tmp_path / "masks/study_0255_mask.nii"
    link.symlink_to(tmp_path / "annex/objects/absent")
    found = find_cases(tmp_path)
    both = {found.cases[0].masks["infection"].path, *(path for *_, path in found.masks_twice)}
    assert both == {link, tmp_path / "masks/study_0255_mask.nii.gz"}


def test_archives_that_were_not_extracted_are_mentioned(tmp_path, hand):
    hand.touch(tmp_path, "Lung_Mask.zip", "Task3_Thoracic_OAR.zip", "holiday.zip")
    found = find_cases(tmp_path)
    assert [(key, path.name) for key, path in found.archives] == [
        ("covid-ct-seg", "Lung_Mask.zip"),
        ("structseg", "Task3_Thoracic_OAR.zip"),
    ]
    with pytest.raises(LayoutError, match=r"archives not extracted: Lung_Mask\.zip"):
        found.require_any()


def test_nothing_found_says_what_was_looked_for(tmp_path):
    with pytest.raises(LayoutError, match=r"(?s)none of the datasets.*imagesTr/lung_001\.nii\.gz"):
        find_cases(tmp_path).require_any()


@pytest.mark.parametrize(("name", "finding"), [("absent", "does not exist"), ("file", "is a file")])
def test_root_that_is_no_folder(name, finding, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LayoutError, match=finding):
        find_cases(tmp_path / name)


def test_links_are_followed_but_never_in_circles(tmp_path, hand):
    hand.touch(tmp_path / "disk", "CT-1/study_0255.nii.gz")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "circle").symlink_to(root)
    assert len(find_cases(root).cases) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_folder_without_permission_is_reported(tmp_path, hand):
    hand.touch(tmp_path, "CT-1/study_0255.nii.gz", "CT-2/study_0940.nii.gz")
    (tmp_path / "CT-2").chmod(0)
    try:
        found = find_cases(tmp_path)
    finally:
        (tmp_path / "CT-2").chmod(0o700)
    assert [path.name for path, _ in found.unreadable] == ["CT-2"]
    assert len(found.cases) == 1


def test_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch, hand):
    hand.touch(tmp_path, "CT-1/study_0255.nii.gz", "CT-2/study_0940.nii.gz")
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("CT-2"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find_cases(tmp_path)
    assert found.unreadable == [(tmp_path / "CT-2", "Permission denied")]
    assert len(found.cases) == 1


def test_only_what_is_asked_for(tmp_path, hand):
    hand.touch(tmp_path, *LAYOUTS["MSD"][0], *LAYOUTS["MosMed"][0])
    found = find_cases(tmp_path, ["msd"])
    assert found.present() == ["msd"]
    # What another dataset claims is not called unknown.
    assert not found.ignored


def test_what_is_wrong_with_a_dataset_that_is_not_asked_for_does_not_matter(tmp_path, hand):
    hand.touch(
        tmp_path, *LAYOUTS["Zenodo"][0], "COVID-19-20_v2/Train/volume-covid19-A-0003_ct.nii.gz"
    )
    (tmp_path / "test_sources.csv").write_text("case_id;source\nx;seen\n")
    found = find_cases(tmp_path, ["covid-ct-seg"])
    assert {case.dataset for case in found.cases} == {"covid-ct-seg"}
    assert not found.ignored
    with pytest.raises(LayoutError, match=r"test_sources\.csv"):
        find_cases(tmp_path, ["covid1920"])


def test_repositories_that_were_built_are_not_cases_again(tmp_path, hand):
    hand.touch(tmp_path, "raw/CT-1/study_0255.nii.gz", "hub/CT-1/study_0255.nii.gz")
    (tmp_path / "hub" / ".covidseg").mkdir()
    found = find_cases(tmp_path)
    assert [case.image.parts[-3] for case in found.cases] == ["raw"]
    assert found.repositories == [tmp_path / "hub"]
    with pytest.raises(LayoutError, match=r"hub: is a dataset repository .*built from") as refused:
        find_cases(tmp_path / "hub").require_any()
    assert "imagesTr" not in str(refused.value)


def test_test_scans_below_a_folder_called_unlabelled_are_no_pool(tmp_path, hand):
    hand.touch(tmp_path, "unlabelled/COVID-19-20_TestSet/volume-covid19-A-0014.nii.gz")
    assert [case.cohort for case in find_cases(tmp_path).cases] == ["test_seen"]


@pytest.mark.parametrize(
    ("folder", "cohort"),
    [
        ("latest", "unlabelled"),
        ("contest", "unlabelled"),
        ("LATEST", "unlabelled"),
        ("COVID-19-20_TestSet", "test_seen"),
        ("testing", "test_seen"),
        ("TEST", "test_seen"),
        ("ChallengeTest", "test_seen"),
        ("COVIDTest_v1", "test_seen"),
        ("my_test_scans", "test_seen"),
    ],
)
def test_test_is_a_word_in_a_folders_name(folder, cohort, tmp_path, hand):
    hand.touch(tmp_path / "CT-Images-in-COVID-19" / folder, "volume-covid19-A-0100.nii.gz")
    assert [case.cohort for case in find_cases(tmp_path).cases] == [cohort]


def test_names_of_covid1920_in_other_letters_case_are_the_same_scans(tmp_path, hand):
    hand.touch(
        tmp_path,
        "COVID-19-20_v2/Train/Volume-COVID19-a-0011_ct.nii.gz",
        "COVID-19-20_v2/Train/volume-covid19-A-0011_seg.nii.gz",
        "CT-Images-in-COVID-19/volume-covid19-a-0014/s/1/1.dcm",
        "CT-Images-in-COVID-19/volume-covid19-a-0014/s/1/2.dcm",
    )
    pool, train = sorted(find_cases(tmp_path).cases, key=lambda case: case.cohort, reverse=True)
    assert (pool.case_id, pool.patient_id) == ("volume-covid19-A-0014", "volume-covid19-A-0014")
    assert train.case_id == "volume-covid19-A-0011"
    assert list(train.masks) == ["infection"]


def test_a_link_does_not_hide_the_folder_it_points_to(tmp_path, hand):
    hand.touch(tmp_path, *LAYOUTS["Zenodo"][0])
    (tmp_path / "images").symlink_to(tmp_path / "COVID-19-CT-Seg_20cases")
    found = find_cases(tmp_path)
    assert len(found.cases) == 2
    assert not found.duplicates


def test_structseg_below_a_folder_that_is_called_as_the_head_and_neck_tasks(tmp_path, hand):
    hand.touch(
        tmp_path / "task2", "Task3_Thoracic_OAR/1/data.nii.gz", "Task1_HaN_OAR/1/data.nii.gz"
    )
    assert [case.cohort for case in find_cases(tmp_path).cases] == ["organs"]


@pytest.mark.parametrize(
    ("folder", "top", "cohort"),
    [
        # The benchmark's names for its own tasks, whose numbers are not the challenge's.
        ("Task303_StructSegTumor", 1, "target_volume"),
        ("Task203_StructSegTumor", 1, "target_volume"),
        ("Task200_StructSegLung", 6, "organs"),
        ("task3/StructSeg_tumour", 1, "target_volume"),
        ("task2/StructSeg_lung", 6, "organs"),
        ("task2/Lung_GTV", 1, "target_volume"),
        ("task3/target_volume", 1, "target_volume"),
        # A word of the user's study far above says less than the labels.
        ("lung-tumour-study/StructSeg2019", 6, "organs"),
        ("lung", 1, "target_volume"),
        ("Task31", 1, "target_volume"),
        ("Task4_Lung_GTV/task3", 6, "organs"),
    ],
)
def test_structseg_by_words_before_numbers(folder, top, cohort, tmp_path, hand):
    label = np.zeros((4, 4, 4), np.uint8)
    label[0, 0, 0] = top
    hand.put(tmp_path / folder / "1" / "label.nii.gz", label)
    hand.touch(tmp_path / folder, "1/data.nii.gz")
    found = find_cases(tmp_path)
    assert found.counts("structseg") == {cohort: 1}
    assert not found.findings


def test_structseg_whose_labels_cannot_be_read_is_told_by_its_name(tmp_path, hand):
    hand.touch(tmp_path, "Task303_StructSegTumor/1/data.nii.gz", "Task300_StructSegLung/1/data.nii")
    assert find_cases(tmp_path).counts("structseg") == {"organs": 1, "target_volume": 1}


@pytest.mark.parametrize(
    ("folder", "severity"), [("Task1_HaN_OAR", "note"), ("task2/StructSeg", "warning")]
)
def test_folders_of_head_and_neck_are_passed_over_but_not_in_silence(
    folder, severity, tmp_path, hand
):
    hand.touch(tmp_path / folder, "1/data.nii.gz", "1/label.nii.gz")
    (finding,) = find_cases(tmp_path).findings
    assert (finding.severity, finding.kind) == (severity, "passed-over")
    assert finding.file == str(tmp_path / folder)
    with pytest.raises(LayoutError, match="names a task of head and neck"):
        find_cases(tmp_path).require_any()


def test_links_into_a_folder_of_phantoms_are_phantoms(tmp_path, hand):
    hand.touch(tmp_path / "drawn", *LAYOUTS["Zenodo"][0])
    (tmp_path / "drawn/PHANTOM.json").write_text('{"phantom": true}')
    (tmp_path / "data").mkdir()
    (tmp_path / "data/COVID-19-CT-Seg_20cases").symlink_to(
        tmp_path / "drawn/COVID-19-CT-Seg_20cases"
    )
    found = find_cases(tmp_path / "data")
    assert found.cases
    assert all(map(found.is_phantom, found.cases))


def test_a_file_under_two_links_is_one_scan(tmp_path, hand):
    hand.touch(tmp_path, "CT-1/study_0255.nii.gz", "masks/study_0255_mask.nii.gz")
    (tmp_path / "again/CT-1").mkdir(parents=True)
    (tmp_path / "again/masks").mkdir()
    os.link(tmp_path / "CT-1/study_0255.nii.gz", tmp_path / "again/CT-1/study_0255.nii.gz")
    (tmp_path / "again/masks/study_0255_mask.nii.gz").symlink_to(
        tmp_path / "masks/study_0255_mask.nii.gz"
    )
    found = find_cases(tmp_path)
    assert [list(case.masks) for case in found.cases] == [["infection"]]
    assert not found.duplicates
    assert not found.masks_twice


def test_predictions_are_no_scans(tmp_path, hand):
    hand.touch(tmp_path, "NSCLC/LUNG1-001.nii.gz", "out/LUNG1-001.nii.gz")
    (tmp_path / "out/predictions.json").write_text('{"LUNG1-001.nii.gz": "made of"}')
    found = find_cases(tmp_path)
    assert [case.image.parent.name for case in found.cases] == ["NSCLC"]
    assert found.predictions == [Predictions(tmp_path / "out", 1)]
    with pytest.raises(LayoutError, match="1 label maps that `covidseg predict` wrote"):
        find_cases(tmp_path / "out").require_any()


def test_predictions_among_scans_hide_none(tmp_path, hand):
    hand.touch(
        tmp_path,
        *series("NSCLC/LUNG1-001/study/scan", 9),
        "NSCLC/LUNG1-001.nii.gz",
        "NSCLC/LUNG1-002.nii.gz",
    )
    record = tmp_path / "NSCLC/predictions.json"
    record.write_text('{"LUNG1-001.nii.gz": "made of"}')
    found = find_cases(tmp_path)
    assert [case.image.name for case in found.cases] == ["scan", "LUNG1-002.nii.gz"]
    record.write_text("{}")
    assert len(find_cases(tmp_path).cases) == 3
    # What a record that cannot be read names is not known: what it may name is passed over.
    record.write_text('{"LUNG1-0')
    found = find_cases(tmp_path)
    assert [case.image.name for case in found.cases] == ["scan"]
    assert found.predictions == [Predictions(tmp_path / "NSCLC", 2, recorded=False)]


def series(root, *slices):
    """Empty DICOM files: names decide."""
    return [f"{root}/1-{n:02d}.dcm" for n in range(*slices)]


def test_a_localiser_is_not_a_second_scan(tmp_path, hand):
    pool = "CT Images in COVID-19/volume-covid19-A-0701"
    hand.touch(
        tmp_path,
        *series("NSCLC/LUNG1-001/study/a scout", 2),
        *series("NSCLC/LUNG1-001/study/scan", 9),
        *series(f"{pool}/study/a scout", 3),
        *series(f"{pool}/study/scan", 9),
    )
    found = find_cases(tmp_path)
    assert {(case.case_id, case.image.name) for case in found.cases} == {
        ("LUNG1-001", "scan"),
        ("volume-covid19-A-0701", "scan"),
    }


def test_a_patient_of_the_pool_may_have_two_scans(tmp_path, hand):
    pool = "CT Images in COVID-19"
    hand.touch(
        tmp_path,
        *series(f"{pool}/volume-covid19-A-0701/study/one", 9),
        *series(f"{pool}/volume-covid19-A-0701/study/two", 9),
        *series(f"{pool}/volume-covid19-A-0701/study/three", 9),
        f"{pool}/volume-covid19-A-0701_1.nii.gz",
    )
    found = find_cases(tmp_path)
    assert [case.case_id for case in found.cases] == [
        f"volume-covid19-A-0701{end}" for end in ("", "_1", "_2", "_3")
    ]
    assert not found.duplicates


def put_series(hand, folder, patient="LUNG1-005", uid="1.2.3.1"):
    from covidseg.imaging.dicom import write_series
    from covidseg.imaging.volume import Volume

    return write_series(
        folder,
        Volume(hand.scan(), hand.LPS),
        patient_id=patient,
        study_uid="1.2.3",
        series_uid=uid,
        frame_of_reference_uid="1.2.3.9",
    )


def put_structures(path, patient="LUNG1-001"):
    """A structure set with nothing but what says that it is one."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

    entry = Dataset()
    entry.file_meta = FileMetaDataset()
    entry.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    entry.SOPClassUID, entry.SOPInstanceUID = RTStructureSetStorage, f"1.2.{path.stem}"
    entry.Modality, entry.PatientID = "RTSTRUCT", patient
    path.parent.mkdir(parents=True, exist_ok=True)
    entry.save_as(path, enforce_file_format=True)
    return path


def test_two_structure_sets_are_no_scan_and_reported(tmp_path, hand):
    hand.touch(tmp_path, *series("NSCLC/LUNG1-001/study/scan", 9))
    for n in range(2):
        put_structures(tmp_path / f"NSCLC/LUNG1-001/study/structures/{n}.dcm")
    found = find_cases(tmp_path)
    assert [(case.image.name, list(case.masks)) for case in found.cases] == [
        ("scan", ["structures"])
    ]
    assert [path.name for _, _, path in found.masks_twice] == ["1.dcm"]


@pytest.mark.parametrize("kept", [0, 100, 300])
def test_one_damaged_slice_does_not_hide_a_scan_laid_out_by_uid(kept, tmp_path, hand):
    files = put_series(hand, tmp_path / "1.3.6.1")
    files[0].write_bytes(files[0].read_bytes()[:kept])
    found = find_cases(tmp_path)
    assert [case.case_id for case in found.cases] == ["LUNG1-005"]
    assert not found.damaged
    # Where none can be read, nobody knows whose they are; that is said, not passed over.
    for file in files:
        file.write_bytes(file.read_bytes()[:kept])
    found = find_cases(tmp_path)
    assert found.damaged == [tmp_path / "1.3.6.1"]
    assert not found.ignored
    with pytest.raises(LayoutError, match="1 damaged DICOM files or folders"):
        found.require_any()
    # Nothing of MSD's is DICOM.
    assert not find_cases(tmp_path, ["msd"]).damaged


def test_other_peoples_dicom_is_ignored_also_without_a_preamble(tmp_path, hand):
    for file in put_series(hand, tmp_path / "old", "somebody else"):
        file.write_bytes(file.read_bytes()[132:])
    found = find_cases(tmp_path)
    assert [(entry.folder.name, entry.files) for entry in found.ignored] == [("old", 10)]
    assert not found.damaged


def test_a_damaged_structure_set_is_no_localiser(tmp_path, hand):
    study = tmp_path / "NSCLC/LUNG1-001/study"
    put_series(hand, study / "scan", "LUNG1-001")
    path = put_structures(study / "structures/1-1.dcm")
    path.write_bytes(path.read_bytes()[:100])
    found = find_cases(tmp_path)
    assert [(case.image.name, list(case.masks)) for case in found.cases] == [("scan", [])]
    assert found.damaged == [path]
    # Beside a scout as well.
    scout = put_series(hand, study / "all", "LUNG1-001")[0]
    for file in scout.parent.iterdir():
        if file != scout:
            file.unlink()
    path = path.rename(scout.with_name("structures.dcm"))
    found = find_cases(tmp_path)
    assert [case.image.name for case in found.cases] == ["scan"]
    assert found.damaged == [path]
    assert [entry.folder.name for entry in found.ignored] == ["all"]


@pytest.mark.parametrize("folder", ["LUNG1-001", "LUNG1-001/study", "by the tags"])
def test_structures_in_the_scans_own_folder_are_found(folder, tmp_path, hand):
    put_series(hand, tmp_path / folder, "LUNG1-001")
    path = put_structures(tmp_path / folder / "00011.dcm")
    found = find_cases(tmp_path)
    assert [case.image for case in found.cases] == [tmp_path / folder]
    assert found.cases[0].masks["structures"].path == path


def test_slices_of_a_scan_are_not_opened_where_their_names_tell(tmp_path, hand, monkeypatch):
    from covidseg.registry import tree

    put_series(hand, tmp_path / "LUNG1-001/study/series", "LUNG1-001")
    put_series(hand, tmp_path / "LUNG1-002", "LUNG1-002")
    monkeypatch.setattr(tree, "dicom_identity", lambda path: pytest.fail(f"opened {path}"))
    assert len(find_cases(tmp_path).cases) == 2

"""COVID-SemiSeg: 2D slices with COVID-19 infection; 50 to train, 48 to test, 1,600 unlabelled.

Layout
------
As published. The multi-class part holds the same slices again, with lesion types as labels::

    Dataset/TrainingSet/LungInfection-Train/Doctor-label/{Imgs/0.jpg,GT/0.png}
    Dataset/TrainingSet/LungInfection-Train/Pseudo-label/Imgs/Data-1_coronacases_org_001_1.jpg
    Dataset/TrainingSet/MultiClassInfection-Train/{Imgs/0.jpg,GT/0.png}
    Dataset/TestingSet/LungInfection-Test/{Imgs,GT}, Dataset/TestingSet/MultiClassInfection-Test/...

``Pseudo-label/GT`` holds the predictions of the authors' own network, no annotation: left out.
"""

from __future__ import annotations

from covidseg.registry.cases import ImageFormat, Intensity
from covidseg.registry.dataset import (
    IMAGE,
    Annotation,
    Citation,
    Dataset,
    Licence,
    Pattern,
    Piece,
)

PICTURE = Intensity("picture")
_AGAIN = "again"
_FILE = r"(?P<name>[\w.-]+)\.(?:jpe?g|png|bmp|tiff?)"


# The pool's slices of this source have the spine where others have the breastbone.
_BACK_FIRST = rf"(?=[\w.-]*coronacases){_FILE}"
_FRONT_FIRST = rf"(?![\w.-]*coronacases){_FILE}"


def _part(folder: str, cohort: str, image: str, annotation: str) -> tuple[Pattern, Pattern]:
    return (
        Pattern("published", image, f"{folder}/Imgs", r"\g<name>", _FILE, cohort, format="picture"),
        Pattern("published", annotation, f"{folder}/GT", r"\g<name>", _FILE, cohort),
    )


def _pool(file: str, form: ImageFormat) -> Pattern:
    folder = "LungInfection-Train/Pseudo-label/Imgs"
    return Pattern("published", IMAGE, folder, r"\g<name>", file, "unlabelled", format=form)


class CovidSemiSeg(Dataset):
    key = "semiseg"
    aliases = ("covid-semiseg", "inf-net")
    title = "COVID-SemiSeg"
    licence = Licence(
        "Non-commercial",
        "https://github.com/DengPingFan/Inf-Net",
        redistributable=False,
        note="For non-commercial use; terms of redistribution are not stated, so it is not passed"
        " on.",
    )
    citations = (
        Citation(
            "Fan D-P, Zhou T, Ji G-P, et al. Inf-Net: Automatic COVID-19 lung infection"
            " segmentation from CT images. IEEE Transactions on Medical Imaging 39(8), 2020.",
            "10.1109/TMI.2020.2996645",
        ),
    )
    homepages = (
        "https://github.com/DengPingFan/Inf-Net",
        "http://medicalsegmentation.com/covid19/",
    )
    tasks = ("semiseg (2D)",)
    steps = (
        "Open https://github.com/DengPingFan/Inf-Net and follow its link to the COVID-SemiSeg"
        " dataset (Google Drive or Baidu).",
        "Extract it so that Dataset/TrainingSet and Dataset/TestingSet stand side by side.",
    )
    annotations = {
        "infection": Annotation(
            {1: "infection"}, "infection, by a radiologist", format="picture", threshold=127.5
        ),
        "lesion_types": Annotation(
            {1: "ground_glass_opacity", 2: "consolidation"},
            "ground-glass opacity and consolidation",
            format="picture",
        ),
    }
    patterns = (
        *_part("LungInfection-Train/Doctor-label", "train", IMAGE, "infection"),
        *_part("MultiClassInfection-Train", "train", _AGAIN, "lesion_types"),
        *_part("LungInfection-Test", "test", IMAGE, "infection"),
        *_part("MultiClassInfection-Test", "test", _AGAIN, "lesion_types"),
        _pool(_FRONT_FIRST, "picture"),
        _pool(_BACK_FIRST, "picture, back first"),
    )
    intensity = "8-bit grey values, lung window of unknown limits; no HU and no spacing"
    expected_counts = {"train": 50, "test": 48, "unlabelled": 1600}
    expected_masks = {
        "train": ("infection", "lesion_types"),
        "test": ("infection", "lesion_types"),
    }
    listed_cohorts = ("train",)
    oddities = {
        "": "The unlabelled slices are cut from the scans of COVID-19-CT-Seg: never a pool for"
        " task 1 or 3. Slices are cropped to the lungs and stored transposed; those of coronacases"
        " with the back first.",
        "10": "the same slice as 43 at another size",
        "43": "the same slice as 10 at another size",
    }

    def intensity_of(self, case_id):
        return PICTURE

    def notes_of(self, case):
        # Test slices are numbered from 0 again.
        return super().notes_of(case) if case.cohort == "train" else ""

    def arrange(self, pieces):
        """The multi-class part's pictures stand in only where the others were not downloaded."""
        held = {(piece.cohort, piece.case_id) for piece in pieces if piece.role == IMAGE}
        again = [piece for piece in pieces if piece.role == _AGAIN]
        found = super().arrange(
            [
                _as_image(piece)
                if piece.role == _AGAIN and (piece.cohort, piece.case_id) not in held
                else piece
                for piece in pieces
                if piece.role != _AGAIN or (piece.cohort, piece.case_id) not in held
            ]
        )
        found.claimed |= {piece.path for piece in again}
        return found


def _as_image(piece: Piece) -> Piece:
    return Piece(
        piece.path, IMAGE, piece.case_id, piece.cohort, "multi-class part alone", piece.format
    )

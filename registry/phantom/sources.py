"""The sources: each dataset's scanner and patients, so that they differ as the real ones do.

What differs is what published comparisons blame for the gaps between these datasets: slice
thickness, kernel, noise, contrast agent, calibration, field of view, and the mix of disease.
"""

from __future__ import annotations

from covidseg.registry.phantom.scan import Disease, Source
from covidseg.registry.phantom.scanner import Scanner

CORONACASES = Source(
    "coronacases",
    Scanner(
        "LPS", fov_mm=(350, 400), slices=1.15, kernel=(0.1, 0.5), noise_hu=(12, 22),
        padding=None,
    ),
    Disease(severity=(0.03, 0.45), consolidation=0.38, effusion=0.05),
)  # fmt: skip
RADIOPAEDIA = Source(
    "radiopaedia",
    Scanner(
        "LAS", fov_mm=(340, 400), slices=0.8, kernel=(-0.5, 0.4), noise_hu=(8, 20),
        offset_hu=(-12, 12), contrast=(0.0, 0.5), padding=None,
    ),
    Disease(severity=(0.03, 0.40), consolidation=0.45, effusion=0.08),
)  # fmt: skip
MOSMED = Source(
    "mosmed",
    Scanner(
        "RAS", fov_mm=(330, 390), slices=0.75, kernel=(0.3, 0.7), noise_hu=(18, 32),
        grain=0.5, offset_hu=(-15, 10), padding=-2048,
    ),
    Disease(severity=(0.012, 0.14), consolidation=0.12, effusion=0.01),
)  # fmt: skip
STRUCTSEG = Source(
    "structseg",
    Scanner(
        "RPS", fov_mm=(430, 500), slices=1.1, kernel=(-0.7, -0.3), noise_hu=(9, 16), grain=0.9,
        offset_hu=(0, 22), gain=(1.0, 1.03), contrast=(0.3, 0.8), padding=-1024,
        below_mm=35, above_mm=30,
    ),
    Disease(tumours=(1, 1), radius_mm=(12, 34), attached=0.75, effusion=0.06),
)  # fmt: skip
NSCLC = Source(
    "nsclc",
    Scanner(
        "LPS", fov_mm=(460, 520), slices=1.0, kernel=(-0.9, -0.45),
        noise_hu=(14, 28), grain=1.1, offset_hu=(-45, -10), gain=(0.97, 1.0),
        contrast=(0.1, 0.7), padding=-1024, below_mm=45, above_mm=35, motion=1.2,
    ),
    Disease(tumours=(1, 2), radius_mm=(12, 38), attached=0.7, effusion=0.0),
)  # fmt: skip
MSD = Source(
    "msd",
    Scanner(
        "LAS", fov_mm=(340, 420), slices=1.4, kernel=(0.4, 0.8), noise_hu=(20, 36), grain=0.45,
        offset_hu=(-8, 8), contrast=(0.0, 0.9), padding=None, below_mm=25,
    ),
    Disease(tumours=(1, 1), radius_mm=(5, 22), attached=0.4, effusion=0.02),
)  # fmt: skip
COVID1920_SEEN = Source(
    "covid1920-seen",
    Scanner(
        "LPS", fov_mm=(340, 400), slices=1.0, kernel=(-0.2, 0.5), noise_hu=(12, 24),
        padding=-1024,
    ),
    Disease(severity=(0.02, 0.40), consolidation=0.36, effusion=0.04),
)  # fmt: skip
COVID1920_UNSEEN = Source(
    "covid1920-unseen",
    Scanner(
        "LPS", fov_mm=(390, 470), slices=1.35, kernel=(0.6, 1.1), noise_hu=(26, 44), grain=0.45,
        offset_hu=(8, 40), gain=(1.0, 1.04), contrast=(0.4, 1.0), padding=-2048,
    ),
    Disease(severity=(0.02, 0.45), consolidation=0.58, effusion=0.30),
)  # fmt: skip
SEMISEG = Source(
    "semiseg",
    Scanner(
        "RAS", fov_mm=(320, 380), slices=1.0, kernel=(-0.3, 0.6), noise_hu=(10, 26),
        contrast=(0.0, 0.6), padding=None, motion=0.6,
    ),
    Disease(severity=(0.06, 0.55), consolidation=0.42, effusion=0.05),
)  # fmt: skip

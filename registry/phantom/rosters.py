"""Which cases each dataset's phantoms have: the published IDs, and plausible ones where none are.

Names never depend on the seed, so splits and deny-lists written for phantoms keep their meaning.
"""

from __future__ import annotations

from functools import cache

from covidseg.registry.phantom.draws import generator
from covidseg.splits.canonical import canonical_cases

MSD_UNLABELLED = 32
TEST_CASES = 23
"""COVID-19-20 test scans of each source, seen and unseen."""

MOSMED_POOL = {"tiny": 10, "small": 40, "full": 200}
"""Unlabelled MosMed studies by size; the real pool has 1,060."""

COVID1920_POOL = {"tiny": 12, "small": 60, "full": 400}
"""Unlabelled COVID-19-20 scans by size, not counting those that a deny-list must refuse."""

SEMISEG_SLICES = {"tiny": 2, "small": 10, "full": 80}
"""Unlabelled COVID-SemiSeg slices cut from each of the 20 scans; 80 make the real 1,600."""

SEMISEG_TEST = 48

# Severity classes of MosMed: first and last study.
MOSMED_CLASSES = {
    "CT-0": (1, 254),
    "CT-1": (255, 938),
    "CT-2": (939, 1063),
    "CT-3": (1064, 1108),
    "CT-4": (1109, 1110),
}


def nsclc_effusions() -> frozenset[str]:
    """The 78 NSCLC cases that have pleural effusion masks."""
    from covidseg.splits.canonical import published

    parts = published("task2", "task2-nsclc-effusion")
    return frozenset(case.case_id for cases in parts.values() for case in cases)


def msd_unlabelled() -> list[str]:
    """Numbers of the decathlon's test images: those that the labelled ones leave out."""
    labelled = set(canonical_cases("msd"))
    free = [f"lung_{n:03d}" for n in range(1, 97) if f"lung_{n:03d}" not in labelled]
    return free[:MSD_UNLABELLED]


def mosmed_class(study: str) -> str:
    """``CT-0`` to ``CT-4`` of a study."""
    number = int(study.removeprefix("study_"))
    return next(name for name, (low, high) in MOSMED_CLASSES.items() if low <= number <= high)


def mosmed_unlabelled(size: str) -> list[str]:
    """Studies of the unlabelled pool, spread evenly over the severity classes."""
    labelled = set(canonical_cases("mosmed"))
    free = [f"study_{n:04d}" for n in range(1, 1111) if f"study_{n:04d}" not in labelled]
    count = MOSMED_POOL[size]
    return [free[round((k + 0.5) * len(free) / count)] for k in range(count)]


@cache
def covid1920_names() -> dict[str, tuple[str, ...]]:
    """Case IDs by part: ``train`` (199), ``test_seen``, ``test_unseen``, ``pool`` (many).

    Only the 50 validation names are published. Six phantom patients of the training part have two
    scans, suffixed ``_0`` and ``_1`` as in the real one.
    """
    taken = {case.split("-")[3][:4] for case in canonical_cases("covid1920")}
    free = [f"{n:04d}" for n in range(1, 1200) if f"{n:04d}" not in taken]
    low = [number for number in free if int(number) < 700]
    order = generator(0, "names of covid1920").permutation(len(low))
    drawn = [low[k] for k in order]
    twice, once, seen = drawn[:6], drawn[6:193], drawn[193 : 193 + TEST_CASES]
    train = [*once, *(f"{number}_{k}" for number in twice for k in (0, 1))]
    pool = [number for number in free if int(number) >= 700]
    return {
        "train": tuple(sorted(f"volume-covid19-A-{number}" for number in train)),
        "test_seen": tuple(sorted(f"volume-covid19-A-{number}" for number in seen)),
        "test_unseen": tuple(f"volume-covid19-AR-{k:04d}" for k in range(1, TEST_CASES + 1)),
        "pool": tuple(f"volume-covid19-A-{number}" for number in pool),
    }


def covid1920_contaminated() -> dict[str, tuple[str, str]]:
    """Pool scans that must be refused: ID -> (``pixels`` or ``patient``, evaluation case).

    Two are copies of test scans and one of a validation scan under other names; two are other
    scans of a validation patient and of a test patient.
    """
    names, validation = covid1920_names(), canonical_cases("covid1920")
    seen, spare = names["test_seen"], names["pool"][::-1]
    return {
        spare[0]: ("pixels", seen[0]),
        spare[1]: ("pixels", seen[11]),
        spare[2]: ("pixels", validation[1]),
        f"{validation[3]}_1": ("patient", validation[3]),
        f"{seen[5]}_1": ("patient", seen[5]),
    }


def covid1920_patient(case: str) -> str:
    """Patient of a scan: its name without the suffix that counts scans."""
    return "-".join([*case.split("-")[:3], case.split("-")[3].split("_")[0]])

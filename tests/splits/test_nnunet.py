"""nnU-Net's folds as scikit-learn 1.9.1 draws them: KFold(5, shuffle=True, random_state=12345)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covidseg.core.errors import SplitError
from covidseg.splits.nnunet import nnunet_folds

# Positions of the held-out cases among 12 and 199 sorted names, printed by scikit-learn once.
OF_12 = [[0, 3, 8], [7, 10, 11], [6, 9], [1, 4], [2, 5]]
OF_199_FIRST = (
    "10 16 17 20 27 47 50 52 54 55 56 61 70 73 79 85 89 94 95 100 112 121 125 127 132 140 144 147 "
    "155 163 170 172 173 177 179 185 190 193 194 197"
)
OF_199_LAST = (
    "1 7 11 23 29 31 34 36 43 59 64 75 77 81 87 91 97 101 105 113 114 118 119 124 126 129 131 133 "
    "138 142 143 164 166 169 184 186 189 191 198"
)


def names(count):
    return [f"volume-covid19-A-{2 * n:04d}" for n in range(count)]


def held_out_positions(count):
    everyone = names(count)
    return [[everyone.index(c) for c in held_out] for _, held_out in nnunet_folds(everyone)]


def test_twelve_cases_as_scikit_learn():
    assert held_out_positions(12) == OF_12


def test_199_cases_as_scikit_learn():
    positions = held_out_positions(199)
    assert positions[0] == [int(n) for n in OF_199_FIRST.split()]
    assert positions[4] == [int(n) for n in OF_199_LAST.split()]
    assert [len(p) for p in positions] == [40, 40, 40, 40, 39]


@given(st.sets(st.text("A0123456789_", min_size=1), min_size=5, max_size=40), st.randoms())
def test_folds_cover_every_case_once_and_do_not_depend_on_the_order(cases, random):
    shuffled = sorted(cases)
    random.shuffle(shuffled)
    folds = nnunet_folds(shuffled)
    assert folds == nnunet_folds(sorted(cases))
    assert sorted(c for _, held_out in folds for c in held_out) == sorted(cases)
    for learnt, held_out in folds:
        assert sorted(learnt + held_out) == sorted(cases)


def test_too_few_cases_or_one_twice_are_refused():
    with pytest.raises(SplitError, match="4 cases cannot make 5 folds"):
        nnunet_folds(names(4))
    with pytest.raises(SplitError, match="A-0000 is there twice"):
        nnunet_folds([*names(6), "volume-covid19-A-0000"])

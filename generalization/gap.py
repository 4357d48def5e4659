"""How much of the gap between in-domain and unseen test a method closes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from covidseg.scoring.tables import EMPTY, Row, Table
from covidseg.scoring.tables_notes import PARTS
from covidseg.scoring.tables_values import case_values

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "plain, this source"
LEAST = 2.0
IN_DOMAIN = "test_in_domain"
_PLACE = ["task", "part", "algorithm"]


def gap_table(scores: pd.DataFrame, baseline: str = BASELINE) -> pd.DataFrame:
    """Means of DSC by task and method, and what each closes of the baseline's gap.

    Parameters
    ----------
    scores
        Per-case scores with the parts ``test_in_domain`` and ``test_...``; cases without a score
        count as 0.
    baseline
        The algorithm whose gap it is.

    Returns
    -------
    pandas.DataFrame
        One row a task, unseen part and method: ``in_domain``, ``unseen``, both in percent, the mean
        over labels of the mean over cases, and ``closed``, the share of the baseline's gap in
        percent: (unseen − baseline's unseen) / (baseline's in-domain − baseline's unseen). NaN
        where the baseline's gap is below `LEAST` points, of which no share can be told. Means are
        over all seeds together.
    """
    import pandas as pd

    values = case_values(scores, metrics=("dsc",), missing="worst")
    of_labels = values.groupby([*_PLACE, "label"])["value"].mean().reset_index()
    means = {
        (str(row.task), str(row.part), str(row.algorithm)): 100 * float(str(row.value))
        for row in of_labels.groupby(_PLACE, as_index=False)["value"].mean().itertuples()
    }
    rows = []
    for (task, part, algorithm), unseen in means.items():
        if part == IN_DOMAIN:
            continue
        own = means.get((task, IN_DOMAIN, algorithm), math.nan)
        before = means.get((task, part, baseline), math.nan)
        gap = means.get((task, IN_DOMAIN, baseline), math.nan) - before
        closed = 100 * (unseen - before) / gap if gap >= LEAST else math.nan
        rows.append([task, part, algorithm, own, unseen, closed])
    return pd.DataFrame(rows, columns=[*_PLACE, "in_domain", "unseen", "closed"])


def gap_report(scores: pd.DataFrame) -> Table:
    """`gap_table` as the other tables are printed; the column ``fold`` counts the seeds."""
    import pandas as pd

    gap = gap_table(scores)
    seeds = [str(seed) for seed in scores["fold"].unique()]
    of_seeds = pd.concat(
        [gap_table(scores[scores["fold"].astype(str) == seed]).assign(seed=seed) for seed in seeds]
    )
    rows, before = [], ""
    for row in gap.to_dict("records"):
        numbers = [row["in_domain"], row["unseen"], row["closed"]]
        cells = [_shown(value) for value in numbers]
        part = PARTS.get(row["part"], row["part"])
        same = (of_seeds[["task", "part", "algorithm"]] == [row[key] for key in _PLACE]).all(axis=1)
        each = ", ".join(_shown(value) for value in of_seeds.loc[same, "closed"])
        place = (row["task"], part, row["algorithm"])
        rows.append(Row((*place, *cells, each), row["task"] != before))
        before = row["task"]
    names = (
        "Task",
        "Unseen part",
        "Method",
        "In-domain DSC",
        "Unseen DSC",
        "Gap closed, %",
        "Seed by seed",
    )
    notes = (
        "DSC in percent, the mean over labels of the mean over cases; a case without a score is 0.",
        f"Gap closed: of the distance from the unseen to the in-domain DSC of '{BASELINE}', the "
        f"share by which a method's unseen DSC is above that one's; none below {LEAST:g} points.",
    )
    return Table(
        "The gap between in-domain and unseen test",
        tuple((name,) for name in names),
        tuple(rows),
        notes,
        gap,
        bool(scores["phantom"].any()),
        3,
    )


def _shown(value: float) -> str:
    return EMPTY if math.isnan(value) else f"{value:.1f}"

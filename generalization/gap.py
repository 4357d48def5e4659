"""How much of the gap between in-domain and unseen test a method closes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from covidseg.scoring.tables_values import case_values

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "plain, this source"
IN_DOMAIN = "test_in_domain"


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
        percent: (unseen − baseline's unseen) / (baseline's in-domain − baseline's unseen). Empty
        where the baseline has no gap.
    """
    import pandas as pd

    values = case_values(scores, metrics=("dsc",), missing="worst")
    place = ["task", "part", "algorithm"]
    of_labels = values.groupby([*place, "label"])["value"].mean().reset_index()
    means = {
        (str(row.task), str(row.part), str(row.algorithm)): 100 * float(str(row.value))
        for row in of_labels.groupby(place, as_index=False)["value"].mean().itertuples()
    }
    rows = []
    for (task, part, algorithm), unseen in means.items():
        if part == IN_DOMAIN:
            continue
        own = means.get((task, IN_DOMAIN, algorithm), math.nan)
        before = means.get((task, part, baseline), math.nan)
        gap = means.get((task, IN_DOMAIN, baseline), math.nan) - before
        closed = 100 * (unseen - before) / gap if gap > 0 else math.nan
        rows.append([task, part, algorithm, own, unseen, closed])
    return pd.DataFrame(rows, columns=[*place, "in_domain", "unseen", "closed"])

"""Means of a file of scores, with the counts that a mean is worth nothing without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from covidseg.scoring.policy import EMPTY_STATUSES, OK
from covidseg.scoring.scores import nsd_column, nsd_tolerances

if TYPE_CHECKING:
    import pandas as pd

SCORED = (OK, *EMPTY_STATUSES)


def failed_cases(scores: pd.DataFrame) -> pd.DataFrame:
    """Cases without scores: ``case_id, status, message``, one row each."""
    failed = scores[~scores["status"].isin(SCORED)]
    return failed[["case_id", "status", "message"]].drop_duplicates("case_id", ignore_index=True)


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of every metric of every label.

    Returns
    -------
    pandas.DataFrame
        ``label, metric, mean, std, n, undefined, infinite, failed``. ``mean`` and ``std`` (of the
        sample, NaN for one value) are over the ``n`` finite values. ``undefined`` counts cases that
        the empty-mask policy gives no value, ``infinite`` those whose NAVE has an empty reference
        under a prediction, ``failed`` those without scores: none of the three is in the mean.
    """
    import pandas as pd

    metrics = ["dsc", *map(nsd_column, nsd_tolerances(scores.columns)), "nave"]
    lines = []
    for label, rows in scores.groupby("label", sort=False):
        scored = rows["status"].isin(SCORED)
        # A tolerance that is another label's own has no value in any scored row of this one.
        asked = [
            metric
            for metric in metrics
            if rows.loc[scored, metric].notna().any() or not metric.startswith("nsd_")
        ]
        for metric in asked:
            values = rows.loc[scored, metric].to_numpy(np.float64)
            finite = values[np.isfinite(values)]
            lines.append(
                {
                    "label": label,
                    "metric": metric,
                    "mean": float(finite.mean()) if len(finite) else float("nan"),
                    "std": float(finite.std(ddof=1)) if len(finite) > 1 else float("nan"),
                    "n": len(finite),
                    "undefined": int(np.isnan(values).sum()),
                    "infinite": int(np.isinf(values).sum()),
                    "failed": int((~scored).sum()),
                }
            )
    return pd.DataFrame(lines)


def summary_text(scores: pd.DataFrame) -> str:
    """The summary as lines for a terminal: DSC and NSD in percent, NAVE as it is."""
    lines = [f"{'label':<20} {'metric':<10} {'mean ± std':>16} {'n':>5}  not in the mean"]
    for row in summarise(scores).to_dict("records"):
        percent = row["metric"] != "nave"
        scale, digits = (100, 2) if percent else (1, 4)
        mean = f"{row['mean'] * scale:.{digits}f} ± {row['std'] * scale:.{digits}f}"
        left_out = ", ".join(
            f"{row[reason]} {reason}"
            for reason in ("undefined", "infinite", "failed")
            if row[reason]
        )
        lines.append(
            f"{row['label']:<20} {row['metric']:<10} "
            f"{mean.replace('nan', '-') + (' %' if percent else '  '):>16} {row['n']:>5}  "
            f"{left_out or '-'}"
        )
    return "\n".join(lines)

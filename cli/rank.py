"""``covidseg rank``: rank algorithms as COVID-19-20 did and write an HTML report."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_HELP = """Rank algorithms by pairwise Wilcoxon tests, as COVID-19-20 did after challengeR.

SCORES are CSV files of per-case scores: what `covidseg score` writes (one file an algorithm, or
several in one), or plain ones with the columns task, algorithm, case, value (higher is better).
Every metric of every label and part is a task; NAVE enters as its negative.

In each task all pairs of algorithms are tested (one-sided, alpha 5 %), the rank is by the number of
significant wins, and the consensus is the mean over tasks. Bootstrap samples of the cases show how
stable the ranks are. The folder OUT gets report.html, which needs no other file, figures as PNG and
SVG, ranking.csv, tasks.csv, tests.csv, bootstrap.csv and ranking.json.

Example: covidseg rank scores/*.csv --out report/ --adjust holm
"""


class Adjust(StrEnum):
    """Adjustment for multiple tests."""

    holm = "holm"
    none = "none"


class Missing(StrEnum):
    """What a case that an algorithm lacks counts as."""

    worst = "worst"
    remove = "remove"


class Mode(StrEnum):
    """How a case that is drawn more than once counts."""

    unique = "unique"
    multiplicity = "multiplicity"


def rank(
    scores: Annotated[list[Path], typer.Argument(metavar="SCORES...", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the report.", show_default=False)],
    adjust: Annotated[
        Adjust,
        typer.Option(
            help="Adjustment over all ordered pairs of a task: `holm`, as the COVID-19-20 report "
            "says, or `none`, challengeR's own default. With many algorithms and few cases Holm "
            "can reject nothing; a warning says so."
        ),
    ] = Adjust.holm,
    alpha: Annotated[float, typer.Option(help="Level of significance.")] = 0.05,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Column to rank by, such as nsd_3mm; give it once for each. By default DSC, the "
            "NSD at the benchmark's tolerance, and NAVE.",
            show_default=False,
        ),
    ] = None,
    bootstraps: Annotated[int, typer.Option(min=1, help="Bootstrap samples.")] = 1000,
    bootstrap_mode: Annotated[
        Mode,
        typer.Option(
            help="A case drawn twice counts once (`unique`, as in challengeR) or twice "
            "(`multiplicity`)."
        ),
    ] = Mode.unique,
    missing: Annotated[
        Missing,
        typer.Option(
            help="A case that an algorithm lacks counts as the worst, or is left out of its "
            "comparisons."
        ),
    ] = Missing.worst,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads; the result does not depend on it. By default one a processor.",
            show_default=False,
        ),
    ] = None,
) -> None:
    from covidseg.scoring.bootstrap_ranking import bootstrap_ranking
    from covidseg.scoring.ranking import rank_challenge
    from covidseg.scoring.ranking_data import read_challenge
    from covidseg.scoring.report import ranking_table, report_warnings, write_ranking_report

    challenge = read_challenge(scores, metric)
    ranking = rank_challenge(challenge, adjust=adjust.value, alpha=alpha, missing=missing.value)
    samples = bootstrap_ranking(
        ranking, samples=bootstraps, seed=seed, mode=bootstrap_mode.value, workers=workers
    )
    report = write_ranking_report(ranking, samples, out, sources=scores)
    if challenge.phantom:
        typer.echo("PHANTOM DATA: not a result of any real scan.")
    typer.echo(
        f"{len(challenge.algorithms)} algorithms, {len(challenge.tasks)} tasks; adjustment "
        f"{adjust.value}, alpha {alpha:g}, missing cases: {missing.value}, {bootstraps:,} "
        f"bootstrap samples ({bootstrap_mode.value}), seed {seed}"
    )
    for row in ranking_table(ranking, samples).head(10).itertuples(index=False):
        typer.echo(f"{row.rank:>5}  {row.algorithm}  (mean rank {row.mean_rank:.2f})")
    if len(challenge.algorithms) > 10:
        typer.echo(f"       … {len(challenge.algorithms) - 10} more")
    for sentence in report_warnings(ranking, samples):
        typer.echo(f"warning: {sentence}", err=True)
    typer.echo(f"Report: {report}")


def add_to(app: typer.Typer) -> None:
    """Hang the subcommand into the command line."""
    app.command("rank", help=_HELP)(rank)

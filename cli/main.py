"""Entry point of the console command.

Only the module of the subcommand that is called is imported, so that ``covidseg --help`` does not
wait for torch. Exit status: 0 all well; 1 the command ran and found something wrong in the data, or
its output's reader (head, say) went before the end; 2 it could not run as asked; 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import signal
import sys

import typer

from covidseg.core.errors import CovidsegError

# Subcommand: the line that --help shows. `covidseg.cli.<subcommand>` has `add_to(app)`.
COMMANDS: dict[str, str] = {
    "phantom": "Draw procedural chest CTs of every dataset, in its own raw layout.",
    "datasets": "List the datasets: cases found, licence, tasks.",
    "download": "Download what is openly downloadable; say how to get the rest.",
    "check": "Verify every file of every dataset found under a folder.",
    "splits": "Show the canonical splits and audit them for leaks.",
    "build": "Write a Hugging Face dataset repository that load_dataset reads.",
    "predict": "Segment scans with a trained run.",
    "score": "Score a folder of predictions: DSC, NSD, NAVE.",
    "table": "Print scores as the benchmark and the challenge print them.",
    "leaderboard": "Print where every run stands: a table a task.",
    "rank": "Rank algorithms as COVID-19-20 did; write an HTML report.",
}


def application(called: str | None) -> typer.Typer:
    """The command line with subcommand ``called`` whole and the others as names with a summary."""
    app = typer.Typer(
        name="covidseg",
        help="Annotation-efficient CT segmentation of lungs and lesions.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(lambda: None)
    for name, summary in COMMANDS.items():
        if name == called:
            importlib.import_module(f"covidseg.cli.{name}").add_to(app)
        else:
            app.command(name, help=summary)(lambda: None)
    return app


def _interrupted(number: int, frame: object) -> None:
    # Here, because typer turns the exception into an exit status (130) and says nothing.
    print(
        "\ncovidseg: interrupted; nothing half-written was left under a final name.",
        file=sys.stderr,
    )
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> None:
    """Run the console command; ends the process with the status that the module's text lists."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGINT, _interrupted)
    called = next((word for word in arguments if not word.startswith("-")), None)
    try:
        application(called)(arguments)
    except CovidsegError as error:
        print(f"covidseg: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as fault:
        # What the operating system refuses is the user's to put right; a full disk has no name.
        if fault.filename is None and fault.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = "" if fault.filename is None else f"{fault.filename}: "
        print(f"covidseg: {where}{fault.strerror}.", file=sys.stderr)
        sys.exit(2)

"""What a run says while it runs: a CSV log, TensorBoard, a progress bar."""

from __future__ import annotations

import contextlib
import csv
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from covidseg.core.files import atomic_file, storage_error
from covidseg.core.progress import progress_bar, tell

LOG = "log.csv"
VALIDATION_LOG = "validation.csv"
TENSORBOARD = "tensorboard"


class CsvLog:
    """Rows of numbers by ``step``; a row with a new column rewrites the file with that column.

    Parameters
    ----------
    path
        The file. Rows that are there already stay, up to and with ``keep_to``.
    keep_to
        Later rows are of a part of the run that was lost and is done again: they are removed.
    """

    def __init__(self, path: Path, keep_to: int = 0) -> None:
        self.path = path
        self.columns: list[str] = []
        if path.is_file():
            # A killed process may leave half a line; its step is beyond the checkpoint's.
            whole = path.read_text().rpartition("\n")[0]
            reader = csv.DictReader(whole.splitlines())
            rows = [row for row in reader if int(row["step"]) <= keep_to]
            self.columns = list(reader.fieldnames or [])
            self._rewrite(rows)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; it is in the file when this returns."""
        new = [name for name in row if name not in self.columns]
        if new:
            old: list[dict[str, Any]] = []
            if self.path.is_file():
                with open(self.path, newline="") as file:
                    old = list(csv.DictReader(file))
            self.columns += new
            self._rewrite([*old, dict(row)])
        else:
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        with atomic_file(self.path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


@contextlib.contextmanager
def _stored_in(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise storage_error(fault, run_dir) from fault


class Monitor:
    """The main process' log; the other processes' does nothing.

    Raises
    ------
    StorageError
        The disk is full or cannot be written to; also raised by `training` and `validation`.
    """

    def __init__(self, run_dir: Path, *, active: bool, start: int, steps: int) -> None:
        self.active, self.run_dir = active, run_dir
        if not active:
            return
        from torch.utils.tensorboard import SummaryWriter

        with _stored_in(run_dir):
            self.log = CsvLog(run_dir / LOG, keep_to=start)
            self.validation_log = CsvLog(run_dir / VALIDATION_LOG, keep_to=start)
            self.board = SummaryWriter(str(run_dir / TENSORBOARD), purge_step=start + 1)
        self.shown_before = threading.excepthook
        threading.excepthook = self._show
        self.bar = progress_bar(
            total=steps, initial=start, desc=run_dir.name, unit="step", smoothing=0.05
        )

    def _show(self, fault: threading.ExceptHookArgs) -> None:
        """What ends a thread; not TensorBoard's, whose fault the next call of it raises again."""
        if not type(fault.thread).__module__.startswith("tensorboard."):
            self.shown_before(fault)

    def advance(self) -> None:
        """One step is done."""
        if self.active:
            self.bar.update()

    def training(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Means since the last call; names with a slash are TensorBoard's tags."""
        if not self.active:
            return
        short = {name.rpartition("/")[2]: value for name, value in values.items()}
        with _stored_in(self.run_dir):
            self.log.append({"step": step, "epoch": epoch, **short})
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        self.bar.set_postfix_str(f"loss {short['loss']:.3f}, lr {short['lr']:.1e}", refresh=False)

    def validation(
        self, step: int, epoch: int, scores: Mapping[str, float], overlay: np.ndarray | None
    ) -> None:
        """Scores on the training side's validation, and a picture (H, W, 3) uint8 of one case."""
        if not self.active:
            return
        with _stored_in(self.run_dir):
            self.validation_log.append({"step": step, "epoch": epoch, **scores})
            for name, value in scores.items():
                self.board.add_scalar(f"validation/{name}", value, step)
            if overlay is not None:
                self.board.add_image("overlay", overlay, step, dataformats="HWC")
        self.say(
            f"epoch {epoch}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        )

    def say(self, line: str) -> None:
        """A line for the reader, above the bar."""
        if self.active:
            self.bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Flush and close.

        What TensorBoard then cannot write is told of alone: the weights are saved already, or a
        first error is on its way.
        """
        if not self.active:
            return
        self.bar.close()
        try:
            self.board.close()
        except OSError as fault:
            tell(f"{self.run_dir / TENSORBOARD}: is not whole ({os.strerror(fault.errno or 0)}).")
        finally:
            threading.excepthook = self.shown_before

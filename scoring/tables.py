"""Tables of scores, and their forms: Markdown, CSV and LaTeX.

Markdown and LaTeX show what a paper shows: rounded, with the notes that make the numbers readable.
CSV holds the same numbers unrounded and in long form, a row a number pair, for other programs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from covidseg.core.errors import ConfigError
from covidseg.core.files import atomic_file

TableFormat = Literal["md", "csv", "tex"]
FORMATS: tuple[TableFormat, ...] = ("md", "csv", "tex")
PHANTOM_NOTICE = "PHANTOM DATA, no patients"
EMPTY = "–"


@dataclass(frozen=True)
class Row:
    """One line of a table; ``new_block`` draws a rule above it (another method begins)."""

    cells: tuple[str, ...]
    new_block: bool = False


@dataclass(frozen=True)
class Table:
    """A table as it is printed, with the numbers behind it.

    ``header`` has one tuple a column, from the widest grouping down to the column's own name, all
    of one length; the first ``text_columns`` are aligned to the left, the others to the right.
    ``numbers`` is what `csv` writes.
    """

    title: str
    header: tuple[tuple[str, ...], ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    numbers: pd.DataFrame
    phantom: bool
    text_columns: int

    @property
    def caption(self) -> str:
        """The title, with the notice where the numbers are of phantoms."""
        return f"{PHANTOM_NOTICE}: {self.title}" if self.phantom else self.title

    def render(self, form: TableFormat) -> str:
        """The table as ``md``, ``csv`` or ``tex``."""
        if form not in FORMATS:
            raise ConfigError(f"format {form!r} is not known", expected=", ".join(FORMATS))
        return {"md": self.markdown, "csv": self.csv, "tex": self.latex}[form]()

    def markdown(self) -> str:
        """GitHub's Markdown. It has no spanning headers, so a column's levels are joined."""
        names = [_markdown(" ".join(level for level in column if level)) for column in self.header]
        numeric = len(self.header) - self.text_columns
        align = [":--"] * self.text_columns + ["--:"] * numeric
        lines = [names, align, *([_markdown(cell) for cell in row.cells] for row in self.rows)]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"**{self.caption}**\n\n{table}\n\n{notes}\n"

    def csv(self) -> str:
        """The numbers, unrounded, with the caption and the phantom flag in every row."""
        frame = self.numbers.assign(phantom=self.phantom, title=self.caption)
        return frame.to_csv(index=False, lineterminator="\n")

    def latex(self) -> str:
        """A floating table; needs the package booktabs, and UTF-8 input."""
        spec = "l" * self.text_columns + "r" * (len(self.header) - self.text_columns)
        lines = [
            "\\begin{table}",
            "\\centering\\small",
            f"\\caption{{{_latex(self.caption)}}}",
            f"\\begin{{tabular}}{{{spec}}}",
            "\\toprule",
            *self._latex_header(),
            "\\midrule",
        ]
        for number, row in enumerate(self.rows):
            if row.new_block and number:
                lines.append("\\midrule")
            lines.append(" & ".join(_latex(cell) for cell in row.cells) + r" \\")
        lines += ["\\bottomrule", "\\end{tabular}", "", "\\smallskip"]
        lines.append("\\begin{minipage}{\\linewidth}\\footnotesize")
        lines += [_latex(note) + r"\par" for note in self.notes]
        lines += ["\\end{minipage}", "\\end{table}"]
        return "\n".join(lines) + "\n"

    def _latex_header(self) -> list[str]:
        lines = []
        depth = len(self.header[0])
        for level in range(depth):
            if not any(column[level] for column in self.header):
                continue
            cells, rules, start = [], [], 1
            # Columns share a heading where they share all levels down to this one.
            for key, span in groupby(self.header, key=lambda column: column[: level + 1]):
                width = len(list(span))
                name = _latex(key[level])
                if level == depth - 1 or not name:
                    cells += [name] + [""] * (width - 1)
                else:
                    cells.append(f"\\multicolumn{{{width}}}{{c}}{{{name}}}")
                    rules.append(f"\\cmidrule(lr){{{start}-{start + width - 1}}}")
                start += width
            lines.append(" & ".join(cells) + r" \\" + (" " + "".join(rules) if rules else ""))
        return lines


def format_of(path: Path | None) -> TableFormat | None:
    """The format that the name of ``path`` ends in; None where it ends in none, or is none."""
    return next((form for form in FORMATS if path and path.suffix == f".{form}"), None)


def render_tables(tables: Sequence[Table], form: TableFormat) -> str:
    """Several tables as one text; as CSV, one header over the rows of all."""
    if form == "csv":
        frames = [
            table.numbers.assign(phantom=table.phantom, title=table.caption) for table in tables
        ]
        return pd.concat(frames, ignore_index=True).to_csv(index=False, lineterminator="\n")
    return "\n".join(table.render(form) for table in tables)


def write_tables(tables: Sequence[Table], path: Path, form: TableFormat) -> None:
    """Write `render_tables` to ``path``, whole or not at all, UTF-8."""
    text = render_tables(tables, form)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def percent(mean: float, std: float) -> str:
    """``85.8±10.5`` from fractions; the std is left out where there is none."""
    if np.isnan(mean):
        return EMPTY
    return f"{100 * mean:.1f}" + ("" if np.isnan(std) else f"±{100 * std:.1f}")


def percent_interval(low: float, high: float) -> str:
    """``[80.1, 90.3]`` from fractions."""
    return EMPTY if np.isnan(low) else f"[{100 * low:.1f}, {100 * high:.1f}]"


def fraction(value: float) -> str:
    """Three decimals, ``inf`` as it is."""
    return EMPTY if np.isnan(value) else f"{value:.3f}"


def count(n: int, n_missing: int, n_undefined: int, *, missing: str = "remove") -> str:
    """How many values a mean is over, and how many it is not over: ``15 (1 missing)``."""
    aside = []
    if n_missing:
        aside.append(f"{n_missing} missing" + (" as worst" if missing == "worst" else ""))
    if n_undefined:
        aside.append(f"{n_undefined} undefined")
    return f"{n}" + (f" ({', '.join(aside)})" if aside else "")


def _markdown(text: str) -> str:
    # An underscore between letters (study_0255) and <0.001 are themselves in GitHub's Markdown.
    escaped = re.sub(r"([\\|*`]|<(?=[A-Za-z/!?])|(?<!\w)_|_(?!\w))", r"\\\1", text)
    return escaped.replace("\n", " ")


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"\,$\pm$\,",
    "–": "--",
    "×": r"$\times$",
    "†": r"\textsuperscript{\dag}",
    "\n": " ",
}


def _latex(text: str) -> str:
    # A cell that opens with a bracket, or a star, would be read as an argument of the line above.
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return "{" + escaped + "}" if escaped.startswith(("[", "*")) else escaped

"""One HTML page without any outside resource: headings, tables, figures, notes."""

from __future__ import annotations

from html import escape

import pandas as pd

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; color: #1b1b1b; background: #fff;
  max-width: 76rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .8rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; border-bottom: 1px solid #ddd; }
nav a { display: inline-block; margin: 0 1rem .3rem 0; }
a { color: #005a8d; }
.alert { background: #fbe3d6; border-left: 5px solid #d55e00; padding: .6rem 1rem; margin: .6rem 0;
  font-weight: 600; }
.note { background: #fff6de; border-left: 5px solid #e69f00; padding: .6rem 1rem; margin: .6rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; }
dt { color: #555; } dd { margin: 0; }
.scroll { overflow: auto; max-height: 38rem; border: 1px solid #ddd; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: #eef2f5; text-align: right; vertical-align: bottom;
  font-weight: 600; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #eee; text-align: right; }
th.text, td.text { text-align: left; }
td.text { overflow-wrap: anywhere; min-width: 6rem; }
tbody tr:hover { background: #f5f9fc; }
figure { margin: 1.4rem 0; } figure img { max-width: 100%; height: auto; }
figcaption { font-size: .9rem; color: #444; max-width: 60rem; }
@media print { .scroll { max-height: none; overflow: visible; } nav { display: none; } }
"""


class Page:
    """A page written from top to bottom; all text is escaped."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._contents: list[tuple[str, str]] = []
        self._top: list[str] = []
        self._body: list[str] = []

    def alert(self, text: str) -> None:
        """A notice that must not be overlooked, at the top."""
        self._top.append(f'<p class="alert" role="alert">{escape(text)}</p>')

    def note(self, text: str) -> None:
        """A warning, at the top."""
        self._top.append(f'<p class="note">{escape(text)}</p>')

    def settings(self, values: dict[str, str]) -> None:
        """Names and values, at the top."""
        rows = (f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in values.items())
        self._top.append(f"<dl>{''.join(rows)}</dl>")

    def section(self, anchor: str, title: str) -> None:
        """Begin a section, listed in the contents."""
        self._contents.append((anchor, title))
        self._body.append(f'<h2 id="{escape(anchor)}">{escape(title)}</h2>')

    def paragraph(self, text: str) -> None:
        """A paragraph of plain text."""
        self._body.append(f"<p>{escape(text)}</p>")

    def table(self, table: pd.DataFrame) -> None:
        """A table as it is; columns of names stand left, all others right."""
        kinds = [' class="text"' if name in ("algorithm", "file") else "" for name in table.columns]
        head = "".join(
            f'<th scope="col"{kind}>{escape(str(name))}</th>'
            for kind, name in zip(kinds, table.columns, strict=True)
        )
        rows = "".join(
            "<tr>"
            + "".join(f"<td{k}>{escape(str(v))}</td>" for k, v in zip(kinds, row, strict=True))
            + "</tr>\n"
            for row in table.itertuples(index=False, name=None)
        )
        self._body.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
            f"<tbody>{rows}</tbody></table></div>"
        )

    def figure(self, address: str, caption: str) -> None:
        """A picture given as a data address."""
        text = escape(caption)
        self._body.append(
            f'<figure><img src="{address}" alt="{text}" loading="lazy">'
            f"<figcaption>{text}</figcaption></figure>"
        )

    def text(self) -> str:
        """The whole page."""
        links = "".join(
            f'<a href="#{escape(anchor)}">{escape(title)}</a>' for anchor, title in self._contents
        )
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self._title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
            f"<h1>{escape(self._title)}</h1>\n"
            + "\n".join(self._top)
            + f"\n<nav>{links}</nav>\n"
            + "\n".join(self._body)
            + "\n</body>\n</html>\n"
        )

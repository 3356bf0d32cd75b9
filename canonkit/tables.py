"""Small tables that read well in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape


def element(tag: str, text: object, style: str = "") -> str:
    """An HTML element that shows text as it is: the one place where text becomes HTML."""
    return f"<{tag}{f' style={style!r}' if style else ''}>{escape(str(text))}</{tag}>"


def html_table(header: Sequence, rows: Sequence[Sequence], hints: Sequence[str] = ()) -> str:
    """An HTML table; text is escaped. Many columns stand closer. `hints` are shown when the mouse is over a row."""
    style = "text-align:left" if len(header) <= 12 else "text-align:left;padding:0.3em 0.25em"
    head = "".join(element("th", c, style) for c in header)
    starts = [f'<tr title="{escape(hint)}">' for hint in hints] or ["<tr>"] * len(rows)
    cells = ["".join(element("td", c, style) for c in row) for row in rows]
    body = "".join(f"{start}{row}</tr>" for start, row in zip(starts, cells, strict=True))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def text_table(header: Sequence, rows: Sequence[Sequence]) -> str:
    """The same as aligned text."""
    cells = [[str(c) for c in row] for row in [header, *rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


@dataclass(frozen=True)
class Table:
    """A table with a title and notes; prints as text, shows as HTML in a notebook, hints on its rows, one for each."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]
    hints: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([self.title, text_table(self.header, self.rows), *self.notes])

    def _repr_html_(self) -> str:
        notes = "<br>".join(element("small", note) for note in self.notes)
        return element("b", self.title) + html_table(self.header, self.rows, self.hints) + notes

    def markdown(self) -> str:
        """The table and its notes for a page of text."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        text = "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines)
        return "\n\n".join([f"**{self.title}**", text, *self.notes])


class Printed:
    """For results that are dataclasses: shows names and values, what is None left out, as text and in a notebook."""

    def __str__(self) -> str:
        return "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in self._rows())

    def _repr_html_(self) -> str:
        return html_table(["certificate", ""], [(name.replace("_", " "), value) for name, value in self._rows()])

    def _rows(self) -> list[tuple[str, object]]:
        text = self._text()
        return [(name, text.get(name, value)) for name, value in vars(self).items() if value is not None]

    def _text(self) -> dict[str, str]:
        """How values look; those not named here as they are."""
        return {name: f"{value:.4f}" for name, value in vars(self).items() if isinstance(value, float)}

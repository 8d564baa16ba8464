"""A table of the report, and its text as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from advnas_lightning.report.paper import Departure
from advnas_lightning.report.statistics import Interval
from advnas_lightning.texts import csv_field, latex, markdown

__all__ = ["NOTHING", "Column", "Field", "Line", "Table", "bracketed", "number", "plus_minus"]

NOTHING = "–"  # the text of an empty place
SETTINGS = "settings that are not the paper's"


@dataclass(frozen=True)
class Field:
    """The content of one place in a table.

    Attributes:
        text: The text that is shown.
        value: The number by which the page sorts the column.
        detail: A smaller text below it.

    Example:
        >>> Field("93.76 ± 0.00", 93.76).value
        93.76
    """

    text: str
    value: float | None = None
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.detail}" if self.detail else self.text


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its title.
        group: The title above it and its neighbours of the same group; empty if it stands alone.
        short: What stands before its values where there is no room for columns; by default both titles.

    Example:
        >>> Column("ours", group="test perplexity").title
        'ours'
    """

    title: str
    group: str = ""
    short: str = ""


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        strategy: The name of the strategy.
        fields: The fields, one for each column.
        departures: The settings that are not the paper's.
        records: What the CSV file says of it: one or several lines, each by the name of the column.

    Example:
        >>> Line("gdas", (Field("GDAS"),)).departures
        ()
    """

    strategy: str
    fields: tuple[Field, ...]
    departures: tuple[Departure, ...] = ()
    records: tuple[Mapping[str, Any], ...] = field(default=())


@dataclass(frozen=True)
class Table:
    """A table that is filled with results.

    Attributes:
        name: The name of its files, without an ending.
        title: The title above it, in words.
        remark: What it is in the paper.
        columns: The columns. The first one names the strategy.
        lines: The rows.
        notes: Remarks that a reader of the table needs.

    Example:
        >>> line = Line("gdas", (Field("GDAS"), Field("95.40", 95.4, "± 2.01")), records=({"strategy": "gdas"},))
        >>> table = Table("t", "Perplexity", "", (Column("strategy"), Column("test")), (line,), notes=())
        >>> print(table.to_markdown())
        **Perplexity**
        <BLANKLINE>
        | strategy | test | settings that are not the paper's |
        | --- | --- | --- |
        | GDAS | 95.40 ± 2.01 | – |
        <BLANKLINE>
    """

    name: str
    title: str
    remark: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The titles above the columns, each with the number of its columns."""
        found: list[tuple[str, int]] = []
        for title, inside in itertools.groupby(self.columns, key=lambda column: column.group):
            width = len(list(inside))
            found += [(title, width)] if title else [("", 1)] * width
        return found

    def to_markdown(self) -> str:
        """The table in Markdown, with its notes."""
        header = [f"{column.group}: {column.title}" if column.group else column.title for column in self.columns]
        lines = [f"**{self.title}**", "", _pipes([*header, SETTINGS]), _pipes(["---"] * (len(header) + 1))]
        for line in self.lines:
            name, *others = map(str, line.fields)
            lines.append(_pipes([markdown(name), *others, markdown(_named(line))]))
        notes = [f"* {note}" for note in self.notes]
        return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"

    def to_csv(self) -> str:
        """The table as CSV: one line for each strategy and measure, with all digits of the numbers."""
        text = io.StringIO()
        records = [record for line in self.lines for record in line.records]
        columns = list(dict.fromkeys(key for record in records for key in record))
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for record in records:
            values = [record.get(key) for key in columns]
            writer.writerow([csv_field(value) if isinstance(value, str) else value for value in values])
        return text.getvalue()

    def to_latex(self) -> str:
        """The table as LaTeX's ``table``, which needs the package booktabs."""
        groups, at, rules = [], 1, []
        for title, width in self.groups:
            groups.append(rf"\multicolumn{{{width}}}{{c}}{{{latex(title)}}}" if title else "")
            rules += [rf"\cmidrule(lr){{{at}-{at + width - 1}}}"] if title else []
            at += width
        body = [[*map(str, line.fields), _named(line)] for line in self.lines]
        titles = [*(column.title for column in self.columns), SETTINGS]
        caption = f"{latex(self.title)}. {latex(' '.join(self.notes))}"
        return "\n".join(
            [
                r"% needs \usepackage{booktabs,graphicx}",
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{caption}}}",
                rf"  \label{{tab:{self.name}}}",
                r"  \resizebox{\linewidth}{!}{%",
                rf"  \begin{{tabular}}{{l{'r' * (len(titles) - 2)}l}}",
                r"    \toprule",
                *([f"    {' & '.join([*groups, ''])}" + r" \\", f"    {' '.join(rules)}"] if rules else []),
                f"    {' & '.join(map(latex, titles))}" + r" \\",
                r"    \midrule",
                *(f"    {' & '.join(map(latex, fields))}" + r" \\" for fields in body),
                r"    \bottomrule",
                r"  \end{tabular}}",
                r"\end{table}",
                "",
            ]
        )


def number(value: float, *, sign: bool = False) -> str:
    """A number with two decimals, and with a minus sign that is one.

    Args:
        value: The number.
        sign: Whether a plus sign is written, too.

    Example:
        >>> number(-0.333), number(0.5, sign=True), number(float("inf"))
        ('−0.33', '+0.50', '∞')
    """
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    return f"{value:{'+' if sign else ''}.2f}".replace("-", "−")


def plus_minus(mean: float, deviation: float | None) -> str:
    """A mean, and its standard deviation if there is one.

    Example:
        >>> plus_minus(93.5, 0.5), plus_minus(93.5, None)
        ('93.50 ± 0.50', '93.50')
    """
    return number(mean) + ("" if deviation is None else f" ± {number(deviation)}")


def bracketed(interval: Interval | None) -> str:
    """An interval in brackets.

    Example:
        >>> bracketed((-1.0, 0.5)), bracketed(None)
        ('[−1.00, 0.50]', '–')
    """
    return NOTHING if interval is None else f"[{number(interval[0])}, {number(interval[1])}]"


def _named(line: Line) -> str:
    return ", ".join(map(str, line.departures)) or NOTHING


def _pipes(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"

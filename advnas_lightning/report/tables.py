"""A table of the report with the paper's values beside ours, and its text as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advnas_lightning.report.palette import Style, rank, styles
from advnas_lightning.report.plans import Plan
from advnas_lightning.report.results import Result, Row, rows_of
from advnas_lightning.report.runs import Run
from advnas_lightning.report.statistics import Interval, Paired, mean_and_deviation
from advnas_lightning.texts import csv_field, latex, markdown

__all__ = ["Field", "Table", "build_table"]

NOTHING = "–"  # the text of an empty place
CSV_COLUMNS = (
    *(
        "strategy",
        "variant",
        "measure",
        "n",
        "paper_n",
        "seeds",
        "epochs",
        "paper_epochs",
        "mean",
        "std",
        "low",
        "high",
    ),
    *("paper_mean", "paper_std", "difference", "difference_low", "difference_high", "better", "worse", "pairs", "p"),
    *("params_millions", "paper_params_millions", "note"),
)


@dataclass(frozen=True)
class Field:
    """The content of one place in a table.

    Attributes:
        text: The text that is shown.
        value: The number by which the page sorts the column.

    Example:
        >>> Field("93.76 ± 0.00", 93.76).value
        93.76
    """

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """A table that is filled with results.

    Attributes:
        plan: What the table shows.
        rows: One row for each strategy of the paper, with or without runs, and for each other strategy with runs.
        styles: The style of each strategy.

    Example:
        >>> from advnas_lightning.report.plans import TABLES
        >>> row = Row("gdas", "", {measure.name: Result({}, None, None) for measure in TABLES[2].measures}, (), ())
        >>> table = Table(TABLES[2], (row,), styles(["gdas"]))
        >>> [field.text for field in table.fields(row)][:4]
        ['GDAS', '0', '–', '–']
    """

    plan: Plan
    rows: tuple[Row, ...]
    styles: Mapping[str, Style]

    @property
    def notes(self) -> list[str]:
        """Remarks that a reader of the table needs."""
        best = "higher" if self.plan.higher_is_better else "lower"
        return [
            f"Mean ± sample standard deviation over the seeds; {best} is better. Every row stands on the runs that have"
            " finished so far.",
            "In brackets: the 95 % interval of the mean, percentile bootstrap over the seeds. With so few of them it is"
            " rather too narrow.",
            "“− AdvantageNAS”: mean difference to AdvantageNAS over the seeds that both have, its bootstrap interval,"
            " on how many seeds the strategy wins, and p of the exact sign-flip test, which with n seeds"
            " cannot be below 2/2ⁿ.",
            self._source,
        ]

    @property
    def _source(self) -> str:
        if not self.plan.theirs:
            return "The paper has no such table: its own perplexities are those of cells trained from scratch."
        return (
            f"The paper's values are those of its {self.plan.title.partition(':')[0]}. That they stand on"
            f" {self.plan.seeds} runs each, with deviations divided by n, is concluded from its Table 4, not stated."
        )

    @property
    def header(self) -> list[str]:
        """The titles of all columns."""
        titles = ["strategy", "n", "epochs"]
        for measure in self.plan.measures:
            titles += [measure.title, "95 % interval", *self._paper, "− AdvantageNAS"]
        return [*titles, "parameters (M)", *(["paper"] if self.plan.their_parameters else [])]

    @property
    def _paper(self) -> list[str]:
        return ["paper"] if self.plan.theirs else []

    def fields(self, row: Row) -> list[Field]:
        """The fields of a row, one for each column."""
        plan = self.plan
        n = max((len(result.values) for result in row.results.values()), default=0)
        name = self.styles[row.strategy].title + (f" ({row.variant})" if row.variant else "")
        epochs = " / ".join(map(str, row.epochs))
        if row.epochs and row.epochs != (plan.their_epochs,):
            epochs += f" (paper: {plan.their_epochs})"
        fields = [Field(name, rank(row.strategy)[0]), Field(str(n), n)]
        fields.append(Field(epochs or NOTHING, row.epochs[0] if row.epochs else None))
        for measure in plan.measures:
            result = row.results[measure.name]
            fields += [
                Field(_ours(result, plan.seeds), result.mean),
                Field(_interval(result.interval), None if result.interval is None else result.interval[0]),
            ]
            if plan.theirs:
                fields.append(Field(str(result.theirs or NOTHING), result.theirs.mean if result.theirs else None))
            compared = result.comparison
            fields.append(Field(_comparison(compared), compared.difference if compared else None))
        mean, deviation = mean_and_deviation(row.parameters) if row.parameters else (None, None)
        fields.append(Field(NOTHING if mean is None else _plus_minus(mean, deviation), mean))
        if plan.their_parameters:
            theirs = plan.their_parameters.get(row.strategy)
            fields.append(Field(NOTHING if theirs is None else f"{theirs:.2f}", theirs))
        return fields

    def to_markdown(self) -> str:
        """The table in Markdown, with its notes."""
        lines = [f"**{self.plan.title}**", "", _pipes(self.header), "| --- " * len(self.header) + "|"]
        for row in self.rows:
            name, *others = (field.text for field in self.fields(row))
            lines.append(_pipes([markdown(name), *others]))
        return "\n".join([*lines, "", *(f"* {note}" for note in self.notes)]) + "\n"

    def to_csv(self) -> str:
        """The table as CSV: one line for each strategy and measure, with all digits of the numbers."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for row in self.rows:
            for name, result in row.results.items():
                low, high = result.interval or (None, None)
                compared = result.comparison
                span = (compared.interval if compared else None) or (None, None)
                few = "no runs" if not result.values else _few(len(result.values), self.plan.seeds)
                writer.writerow(
                    [csv_field(row.strategy), csv_field(row.variant), name, len(result.values), self.plan.seeds]
                    + [" ".join(map(str, result.values)), " ".join(map(str, row.epochs)), self.plan.their_epochs]
                    + [result.mean, result.deviation, low, high]
                    + [
                        result.theirs.mean if result.theirs else None,
                        result.theirs.deviation if result.theirs else None,
                    ]
                    + [compared.difference if compared else None, *span]
                    + ([compared.better, compared.worse, compared.pairs, compared.p] if compared else [None] * 4)
                    + [mean_and_deviation(row.parameters)[0] if row.parameters else None]
                    + [self.plan.their_parameters.get(row.strategy), few]
                )
        return text.getvalue()

    def to_latex(self) -> str:
        """The table as LaTeX's ``table``, which needs the package booktabs."""
        measures, extra = self.plan.measures, bool(self.plan.their_parameters)
        width = 3 + len(self._paper)  # the number of columns of a measure
        groups = " & ".join(rf"\multicolumn{{{width}}}{{c}}{{{latex(measure.title)}}}" for measure in measures)
        size = rf"\multicolumn{{{1 + extra}}}{{c}}{{parameters (M)}}"
        ends = [f"{4 + width * index}-{3 + width * (index + 1)}" for index in range(len(measures))]
        columns = ["ours", r"95\,\% interval", *self._paper, "$-$ AdvantageNAS"]
        below = ["strategy", "$n$", "epochs", *columns * len(measures)]
        below += ["ours", "paper"] if extra else ["ours"]
        body = [" & ".join(latex(field.text) for field in self.fields(row)) + r" \\" for row in self.rows]
        return "\n".join(
            [
                r"% needs \usepackage{booktabs,graphicx}",
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{latex(self.plan.title.partition(': ')[2])}. {latex(' '.join(self.notes))}}}",
                rf"  \label{{tab:{self.plan.name}}}",
                r"  \resizebox{\linewidth}{!}{%",
                rf"  \begin{{tabular}}{{l{'r' * (len(below) - 1)}}}",
                r"    \toprule",
                rf"    & & & {groups} & {size} \\",
                "    " + " ".join(rf"\cmidrule(lr){{{end}}}" for end in ends),
                "    " + " & ".join(below) + r" \\",
                r"    \midrule",
                *(f"    {line}" for line in body),
                r"    \bottomrule",
                r"  \end{tabular}}",
                r"\end{table}",
                "",
            ]
        )


def build_table(plan: Plan, runs: Sequence[Run]) -> Table | None:
    """Fill a table with the results of runs; ``None`` if none of the finished runs belongs in it.

    Args:
        plan: What the table shows.
        runs: The runs, of any task.
    """
    rows = rows_of(plan, runs)
    return Table(plan, tuple(rows), styles(row.strategy for row in rows)) if rows else None


# -- texts ---------------------------------------------------------------------------------------------------------


def _number(value: float, sign: bool = False) -> str:
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    return f"{value:{'+' if sign else ''}.2f}".replace("-", "−")


def _plus_minus(mean: float, deviation: float | None) -> str:
    return _number(mean) + ("" if deviation is None else f" ± {_number(deviation)}")


def _few(n: int, theirs: int) -> str:
    return f"{n} of {theirs} seeds" if n < theirs else ""


def _ours(result: Result, theirs: int) -> str:
    if result.mean is None:
        return NOTHING
    few = _few(len(result.values), theirs)
    return _plus_minus(result.mean, result.deviation) + (f" ({few})" if few else "")


def _interval(interval: Interval | None) -> str:
    return NOTHING if interval is None else f"[{_number(interval[0])}, {_number(interval[1])}]"


def _comparison(compared: Paired | None) -> str:
    if compared is None:
        return NOTHING
    interval = "" if compared.interval is None else f" {_interval(compared.interval)}"
    wins = f"wins {compared.better} of {compared.pairs}"
    return f"{_number(compared.difference, sign=True)}{interval}, {wins}, p = {_number(compared.p)}"


def _pipes(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"

"""The paper's tables, with the paper's values beside ours: as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from advnas_lightning import published
from advnas_lightning.published import Published
from advnas_lightning.report.groups import Group, group
from advnas_lightning.report.palette import Look, looks, rank
from advnas_lightning.report.runs import Run, Unreadable, read_run
from advnas_lightning.report.statistics import Interval, Paired, bootstrap_interval, mean_and_deviation, paired

__all__ = ["TABLES", "Field", "Result", "Row", "Table", "build_table", "retrainings"]

NOTHING = "–"
# Of the CSV files.
COLUMNS = (
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
REFERENCE = "advantage"


class Measure(NamedTuple):
    """A result of a run.

    Attributes:
        name: in the paper's table and in files.
        title: above its columns.
        key: in ``summary.json``.
    """

    name: str
    title: str
    key: str


@dataclass(frozen=True)
class Plan:
    """What a table holds.

    Attributes:
        name: of its files.
        title: above it.
        task: whose runs.
        zero_op: which of the task's two spaces.
        measures: its results.
        parameters: the summary's key of the number of parameters in millions.
        theirs: the paper's results, by strategy and measure.
        their_parameters: likewise, by strategy.
        their_epochs: how long the paper's runs are.
        higher_is_better: or lower.
        retrained: the results are those of found architectures that were trained from scratch.
    """

    name: str
    title: str
    task: str
    zero_op: bool
    measures: tuple[Measure, ...]
    parameters: str
    theirs: Mapping[str, Mapping[str, Published]]
    their_parameters: Mapping[str, float]
    their_epochs: int
    higher_is_better: bool = True
    retrained: bool = False

    @property
    def seeds(self) -> int:
        """Over how many the paper's results are."""
        return published.SEEDS[self.name.partition("_")[0]]

    def takes(self, run: Run) -> bool:
        """Whether a run's result belongs here."""
        fits = run.task == self.task and run.zero_op == self.zero_op
        return fits and (run.strategy == "fixed") == self.retrained


CELLS = (
    Measure("argmax", "accuracy of argmax", "argmax/cifar10_test"),
    Measure("process_best", "accuracy of process best", "process_best/cifar10_test"),
)
PERPLEXITIES = (
    Measure("validation", "validation perplexity", "val/perplexity"),
    Measure("test", "test perplexity", "test/perplexity"),
)
TABLES = (
    Plan(
        "table2",
        "Table 2: CIFAR-10, NAS-Bench-201 test accuracy in % of the found cells",
        "cifar10",
        False,
        CELLS,
        "argmax/params_millions",
        published.TABLE_2,
        published.PARAMETERS_2,
        100,
    ),
    Plan(
        "table3",
        "Table 3: Penn Treebank, perplexity of the found cells, trained from scratch",
        "ptb",
        False,
        PERPLEXITIES,
        "params_millions",
        published.TABLE_3,
        {},
        100,
        higher_is_better=False,
        retrained=True,
    ),
    Plan(
        "table3_search",
        "Penn Treebank, perplexity of the found cells with the weights of the search, which they share",
        "ptb",
        False,
        PERPLEXITIES,
        "params_millions",
        {},
        {},
        30,
        higher_is_better=False,
    ),
    Plan(
        "table4",
        "Table 4: CIFAR-10 with the zero operation, NAS-Bench-201 test accuracy in % of the found cells",
        "cifar10",
        True,
        CELLS,
        "argmax/params_millions",
        published.TABLE_4,
        {},
        100,
    ),
)


@dataclass(frozen=True)
class Result:
    """One measure of one strategy.

    Attributes:
        values: by seed.
        theirs: the paper's.
        comparison: with AdvantageNAS, by seed.
    """

    values: Mapping[int, float]
    theirs: Published | None
    comparison: Paired | None

    @property
    def mean(self) -> float | None:
        """Over the seeds."""
        return mean_and_deviation(list(self.values.values()))[0] if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds."""
        return mean_and_deviation(list(self.values.values()))[1] if self.values else None

    @property
    def interval(self) -> Interval | None:
        """Of the mean."""
        return bootstrap_interval(list(self.values.values()))


@dataclass(frozen=True)
class Row:
    """One strategy, under one setting.

    Attributes:
        strategy: whose.
        variant: in which settings it differs from rows beside it.
        results: by measure.
        parameters: in millions, of all seeds.
        epochs: of the runs, each number once.
    """

    strategy: str
    variant: str
    results: Mapping[str, Result]
    parameters: tuple[float, ...]
    epochs: tuple[int, ...]


@dataclass(frozen=True)
class Field:
    """What stands in one place of a table: a text, and a number to sort by."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """A filled table.

    Attributes:
        plan: what it holds.
        rows: the paper's strategies, with or without runs, and others that have some.
        look: of each strategy.
    """

    plan: Plan
    rows: tuple[Row, ...]
    look: Mapping[str, Look]

    @property
    def notes(self) -> list[str]:
        """What a reader must know."""
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
        """The titles of the columns."""
        titles = ["strategy", "n", "epochs"]
        for measure in self.plan.measures:
            titles += [measure.title, "95 % interval", *self._paper, "− AdvantageNAS"]
        return [*titles, "parameters (M)", *(["paper"] if self.plan.their_parameters else [])]

    @property
    def _paper(self) -> list[str]:
        return ["paper"] if self.plan.theirs else []

    def fields(self, row: Row) -> list[Field]:
        """What stands below them."""
        plan = self.plan
        n = max((len(result.values) for result in row.results.values()), default=0)
        name = self.look[row.strategy].title + (f" ({row.variant})" if row.variant else "")
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
        """A pipe table with its notes."""
        lines = [f"**{self.plan.title}**", "", _pipes(self.header), "| --- " * len(self.header) + "|"]
        lines += [_pipes([field.text for field in self.fields(row)]) for row in self.rows]
        return "\n".join([*lines, "", *(f"* {note}" for note in self.notes)]) + "\n"

    def to_csv(self) -> str:
        """One line for each strategy and measure, with all numbers in full."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in self.rows:
            for name, result in row.results.items():
                low, high = result.interval or (None, None)
                compared = result.comparison
                span = (compared.interval if compared else None) or (None, None)
                few = "no runs" if not result.values else _few(len(result.values), self.plan.seeds)
                writer.writerow(
                    [row.strategy, row.variant, name, len(result.values), self.plan.seeds]
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
        """A ``table`` for booktabs."""
        measures, extra = self.plan.measures, bool(self.plan.their_parameters)
        width = 3 + len(self._paper)  # columns of a measure
        groups = " & ".join(rf"\multicolumn{{{width}}}{{c}}{{{_tex(measure.title)}}}" for measure in measures)
        size = rf"\multicolumn{{{1 + extra}}}{{c}}{{parameters (M)}}"
        ends = [f"{4 + width * index}-{3 + width * (index + 1)}" for index in range(len(measures))]
        columns = ["ours", r"95\,\% interval", *self._paper, "$-$ AdvantageNAS"]
        below = ["strategy", "$n$", "epochs", *columns * len(measures)]
        below += ["ours", "paper"] if extra else ["ours"]
        body = [" & ".join(_tex(field.text) for field in self.fields(row)) + r" \\" for row in self.rows]
        return "\n".join(
            [
                r"% needs \usepackage{booktabs,graphicx}",
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{_tex(self.plan.title.partition(': ')[2])}. {_tex(' '.join(self.notes))}}}",
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
    """Fill a table; ``None`` if no run that has finished belongs in it.

    Args:
        plan: which.
        runs: of any task.
    """
    if plan.retrained:
        runs = retrainings(runs)
        plan_runs = [run for run in runs if run.task == plan.task]
    else:
        plan_runs = [run for run in runs if plan.takes(run)]
    groups = [each for each in group([run for run in plan_runs if run.state == "finished"]) if _has_result(plan, each)]
    if not groups:
        return None
    rows = [_row(plan, each, _reference(each, groups)) for each in groups]
    rows += [
        _row(plan, Group(name, "", (), ()), None) for name in plan.theirs if name not in {g.strategy for g in groups}
    ]
    rows.sort(key=lambda row: (rank(row.strategy), row.variant))
    return Table(plan, tuple(rows), looks(row.strategy for row in rows))


def retrainings(runs: Sequence[Run]) -> list[Run]:
    """The retrainings among some runs, each under the name and seed of the search that found its architecture.

    That search is looked for where the retraining read its ``genotype.json``; one that is not there any more cannot be
    named, and its retraining is left out.
    """
    known = {run.folder.resolve(): run for run in runs}
    found = []
    for run in runs:
        if run.strategy != "fixed" or run.origin is None:
            continue
        folder = (run.origin if run.origin.is_dir() else run.origin.parent).resolve()
        try:
            search = known.get(folder) or read_run(folder)
        except (OSError, Unreadable):
            continue
        found.append(replace(run, strategy=search.strategy, seed=search.seed))
    return found


def _has_result(plan: Plan, each: Group) -> bool:
    return any(run.number(measure.key) is not None for run in each.runs for measure in plan.measures)


def _reference(each: Group, groups: Sequence[Group]) -> Group | None:
    """AdvantageNAS under the same conditions: the variant with most seeds, if there are several."""
    alike = [other for other in groups if other.strategy == REFERENCE and other.conditions == each.conditions]
    return max(alike, key=lambda other: len(other.runs), default=None)


def _row(plan: Plan, each: Group, reference: Group | None) -> Row:
    results = {}
    for measure in plan.measures:
        values = _values(each, measure.key)
        compared = None
        if reference is not None and reference is not each:
            compared = paired(values, _values(reference, measure.key), higher_is_better=plan.higher_is_better)
        results[measure.name] = Result(values, plan.theirs.get(each.strategy, {}).get(measure.name), compared)
    sizes = [run.number(plan.parameters) for run in each.runs]
    epochs = sorted({run.epochs for run in each.runs})
    return Row(each.strategy, each.variant, results, tuple(size for size in sizes if size is not None), tuple(epochs))


def _values(each: Group, key: str) -> dict[int, float]:
    values = {run.seed: run.number(key) for run in each.runs}
    return {seed: value for seed, value in values.items() if value is not None}


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
    return "| " + " | ".join(text.replace("|", r"\|") for text in texts) + " |"


def _tex(text: str) -> str:
    r"""Escape for LaTeX.

    Example:
        >>> print(_tex("93.76 ± 0.00, −1 %, a_b"))
        93.76 $\pm$ 0.00, $-$1 \%, a\_b
    """
    text = re.sub(r"([%&#_${}])", r"\\\1", text)
    special = {"±": r"$\pm$", "−": "$-$", "∞": r"$\infty$", "–": "--", "ⁿ": "$^n$", "“": "``", "”": "''", "~": r"\~{}"}
    for character, command in special.items():
        text = text.replace(character, command)
    return text

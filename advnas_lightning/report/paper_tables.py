"""The paper's tables, with its values beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from advnas_lightning.report.palette import Style, rank, styles
from advnas_lightning.report.plans import Plan
from advnas_lightning.report.results import Row, rows_of
from advnas_lightning.report.runs import Run
from advnas_lightning.report.statistics import LEAST, Paired, mean_and_deviation
from advnas_lightning.report.tables import NOTHING, Column, Field, Line, Table, bracketed, number, plus_minus
from advnas_lightning.texts import counted

__all__ = ["build_table", "named_field"]

READING = (
    "A table has the runs that have finished. A result is the mean over the seeds ± the sample standard deviation.",
    "In brackets: the 95 % interval of the mean, percentile bootstrap over the seeds. With few seeds it is rather too"
    f" narrow, and from fewer than {LEAST} there is none.",
    "The difference to AdvantageNAS is the mean over the seeds that both have. p is that of the exact sign-flip test,"
    " which with n seeds cannot be below 2/2ⁿ.",
)
COMPARED = "difference to AdvantageNAS"


def build_table(plan: Plan, runs: Sequence[Run]) -> Table | None:
    """Fill a table with the results of runs; ``None`` if none of the finished runs belongs in it.

    Args:
        plan: What the table shows.
        runs: The runs, of any task.
    """
    rows = rows_of(plan, runs)
    if not rows:
        return None
    style_of = styles(row.strategy for row in rows)
    lines = [
        Line(row.strategy, tuple(_fields(plan, row, style_of)), row.departures, tuple(_records(plan, row)))
        for row in rows
    ]
    return Table(plan.name, plan.title, plan.remark, _columns(plan), tuple(lines), (*READING, *_source(plan)))


def named_field(row: Row, style_of: Mapping[str, Style]) -> Field:
    """The first field of a row: the strategy, and the settings that tell the row from others.

    Args:
        row: The row.
        style_of: The style of each strategy.
    """
    told = {departure.ours for departure in row.departures}  # which stand beside it anyhow
    others = [part for part in row.variant.split(", ") if part and part not in told]
    return Field(style_of[row.strategy].title, rank(row.strategy)[0], ", ".join(others))


def _source(plan: Plan) -> tuple[str, ...]:
    if not plan.theirs:
        return ()
    return (
        f"That the paper's values stand on {plan.seeds} runs each, with deviations divided by n, is concluded from its"
        " Table 4. The paper does not state it.",
    )


def _columns(plan: Plan) -> tuple[Column, ...]:
    columns = [Column("strategy"), Column("seeds")]
    for measure in plan.measures:
        titles = ["ours", *(["paper"] if plan.theirs else []), COMPARED]
        columns += [Column(title, measure.title) for title in titles]
    titles = ["ours", "paper"] if plan.their_parameters else ["ours"]
    return (*columns, *(Column(title, plan.parameters_title) for title in titles))


def _fields(plan: Plan, row: Row, style_of: Mapping[str, Style]) -> Iterator[Field]:
    n = max((len(result.values) for result in row.results.values()), default=0)
    yield named_field(row, style_of)
    yield Field(str(n), n, f"(paper: {plan.seeds})" if 0 < n < plan.seeds and plan.theirs else "")
    for measure in plan.measures:
        result = row.results[measure.name]
        if result.mean is None:
            yield Field(NOTHING)
        else:
            yield Field(plus_minus(result.mean, result.deviation), result.mean, bracketed(result.interval))
        if plan.theirs:
            yield Field(str(result.theirs or NOTHING), result.theirs.mean if result.theirs else None)
        compared = result.comparison
        yield Field(NOTHING) if compared is None else _difference(compared)
    mean, deviation = mean_and_deviation(row.parameters) if row.parameters else (None, None)
    yield Field(NOTHING if mean is None else plus_minus(mean, deviation), mean)
    if plan.their_parameters:
        theirs = plan.their_parameters.get(row.strategy)
        yield Field(NOTHING if theirs is None else f"{theirs:.2f}", theirs)


def _difference(compared: Paired) -> Field:
    p = NOTHING if compared.p is None else f"= {number(compared.p)}"
    detail = f"{bracketed(compared.interval)}, better on {compared.better} of {counted(compared.pairs, 'seed')}, p {p}"
    return Field(number(compared.difference, sign=True), compared.difference, detail)


def _records(plan: Plan, row: Row) -> Iterator[dict[str, Any]]:
    settings = "; ".join(map(str, row.departures))
    for name, result in row.results.items():
        low, high = result.interval or (None, None)
        compared = result.comparison
        span = (compared.interval if compared else None) or (None, None)
        n = len(result.values)
        yield {
            "strategy": row.strategy,
            "variant": row.variant,
            "measure": name,
            "n": n,
            "paper_n": plan.seeds,
            "seeds": " ".join(map(str, result.values)),
            "epochs": " ".join(map(str, row.epochs)),
            "paper_epochs": plan.their_epochs,
            "mean": result.mean,
            "std": result.deviation,
            "low": low,
            "high": high,
            "paper_mean": result.theirs.mean if result.theirs else None,
            "paper_std": result.theirs.deviation if result.theirs else None,
            "difference": compared.difference if compared else None,
            "difference_low": span[0],
            "difference_high": span[1],
            "better": compared.better if compared else None,
            "worse": compared.worse if compared else None,
            "pairs": compared.pairs if compared else None,
            "p": compared.p if compared else None,
            "params_millions": mean_and_deviation(row.parameters)[0] if row.parameters else None,
            "paper_params_millions": plan.their_parameters.get(row.strategy),
            "not_the_papers": settings,
            "note": "no runs" if not n else f"{n} of {plan.seeds} seeds" if n < plan.seeds else "",
        }

"""The tables that a report can have: the paper's tables, and one of the searches' own perplexities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from advnas_lightning import published
from advnas_lightning.published import Published
from advnas_lightning.report.runs import Run

__all__ = ["TABLES", "Measure", "Plan"]


class Measure(NamedTuple):
    """A result of a run that a table shows.

    Attributes:
        name: The name of the result in the paper's table and in the report's files.
        title: The title of its column.
        key: The key in ``summary.json``.

    Example:
        >>> [measure.key for measure in PERPLEXITIES]
        ['selected/val/perplexity', 'selected/test/perplexity']
    """

    name: str
    title: str
    key: str


@dataclass(frozen=True)
class Plan:
    """What a table shows, before it is filled with the results of runs.

    Attributes:
        name: The name of the table's files, without an ending.
        title: The title above the table, in words.
        remark: What it is in the paper; empty if the paper has no such table.
        task: The task of the runs.
        zero_op: Whether the search space has the zero operation.
        measures: The results that the table shows.
        parameters: The key in ``summary.json`` of the number of parameters in millions.
        parameters_title: The network that these are the parameters of, in words.
        theirs: The paper's results, by strategy and measure.
        their_parameters: The paper's numbers of parameters in millions, by strategy.
        their_epochs: The number of epochs of the paper's runs.
        higher_is_better: Whether a higher result is a better one.
        retrained: Whether the results are those of found architectures that were trained from scratch.

    Example:
        >>> {plan.name: plan.seeds for plan in TABLES}
        {'table2': 3, 'table2_validation': 3, 'table3': 3, 'table3_search': 3, 'table4': 3, 'table4_validation': 3}
    """

    name: str
    title: str
    remark: str
    task: str
    zero_op: bool
    measures: tuple[Measure, ...]
    parameters: str
    parameters_title: str
    theirs: Mapping[str, Mapping[str, Published]]
    their_parameters: Mapping[str, float]
    their_epochs: int
    higher_is_better: bool = True
    retrained: bool = False

    @property
    def seeds(self) -> int:
        """The number of seeds behind each of the paper's results."""
        return published.SEEDS[self.name.partition("_")[0]]

    def takes(self, run: Run) -> bool:
        """Whether a run's result belongs in this table."""
        fits = run.task == self.task and run.zero_op == self.zero_op
        return fits and (run.strategy == "fixed") == self.retrained


BENCHMARK, OWN = "parameters of the benchmark's network (millions)", "parameters of the run's network (millions)"
CELLS = (
    Measure("argmax", "test accuracy of the arg max (%)", "argmax/cifar10_test"),
    Measure("process_best", "test accuracy of the process best (%)", "process_best/cifar10_test"),
)
VALIDATED_CELLS = (
    Measure("argmax", "validation accuracy of the arg max (%)", "argmax/cifar10_valid"),
    Measure("process_best", "validation accuracy of the process best (%)", "process_best/cifar10_valid"),
)
PERPLEXITIES = (
    Measure("validation", "validation perplexity", "selected/val/perplexity"),
    Measure("test", "test perplexity", "selected/test/perplexity"),
)
TABLES = (
    Plan(
        "table2",
        "CIFAR-10: test accuracy of the found cells in NAS-Bench-201",
        "Table 2 of the paper",
        "cifar10",
        False,
        CELLS,
        "argmax/params_millions",
        BENCHMARK,
        published.TABLE_2,
        published.PARAMETERS_2,
        100,
    ),
    Plan(
        "table2_validation",
        "CIFAR-10: validation accuracy of the found cells in NAS-Bench-201",
        "",
        "cifar10",
        False,
        VALIDATED_CELLS,
        "argmax/params_millions",
        BENCHMARK,
        {},
        {},
        100,
    ),
    Plan(
        "table3",
        "Penn Treebank: perplexity of the found cells, trained from scratch",
        "Table 3 of the paper",
        "ptb",
        False,
        PERPLEXITIES,
        "params_millions",
        OWN,
        published.TABLE_3,
        {},
        100,
        higher_is_better=False,
        retrained=True,
    ),
    Plan(
        "table3_search",
        "Penn Treebank: perplexity of the found cells with the weights of the search, which they share",
        "",
        "ptb",
        False,
        PERPLEXITIES,
        "params_millions",
        OWN,
        {},
        {},
        30,
        higher_is_better=False,
    ),
    Plan(
        "table4",
        "CIFAR-10 with the zero operation: test accuracy of the found cells in NAS-Bench-201",
        "Table 4 of the paper",
        "cifar10",
        True,
        CELLS,
        "argmax/params_millions",
        BENCHMARK,
        published.TABLE_4,
        {},
        100,
    ),
    Plan(
        "table4_validation",
        "CIFAR-10 with the zero operation: validation accuracy of the found cells in NAS-Bench-201",
        "",
        "cifar10",
        True,
        VALIDATED_CELLS,
        "argmax/params_millions",
        BENCHMARK,
        {},
        {},
        100,
    ),
)

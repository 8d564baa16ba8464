"""Shows a plan: what each cost is at least and at most, and whether its budget can be met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from advnas_lightning.cost.plan import CostPlan
from advnas_lightning.texts import readable, rich

DIGITS = 4


def plan_table(plan: CostPlan, named: Mapping[str, Sequence[int]]) -> Table:
    """A table with a row for each cost.

    Args:
        plan: The costs and the budgets.
        named: Architectures whose costs are shown too, such as the most probable one, each by a few words.

    Example:
        >>> from rich.console import Console
        >>> from advnas_lightning.cost import CostTable
        >>> edges = {"a": {"linear": 72.0, "skip": 0.0}, "b": {"linear": 7200.0, "skip": 0.0}}
        >>> plan = CostPlan({"params": CostTable("params", edges, 10.0)}, {"params": 100})
        >>> Console(width=70).print(plan_table(plan, {"argmax": (1, 0)}))  # doctest: +NORMALIZE_WHITESPACE
        cost     cheapest   dearest   argmax   budget   can be met
        ──────────────────────────────────────────────────────────
        params         10   7.282 k   7.21 k      100   yes
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("cost")
    for column in ("cheapest", "dearest", *named):
        table.add_column(rich(column), justify="right")
    if plan.budgets:
        table.add_column("budget", justify="right")
        table.add_column("can be met")
    shown = [plan.of(choice) for choice in named.values()]
    for kind, costs in plan.tables.items():
        values = [costs.cheapest, costs.largest, *(each[kind] for each in shown)]
        row: list[Text | str] = [rich(kind), *(readable(value, DIGITS) for value in values)]
        if plan.budgets:
            budget = plan.budgets.get(kind)
            row += ["", ""] if budget is None else [readable(budget, DIGITS), plan.fit(kind).word]
        table.add_row(*row)
    return table


def together(plan: CostPlan) -> str:
    """A sentence on whether all budgets can be met by one architecture; empty with fewer than two budgets.

    Example:
        >>> from advnas_lightning.cost import CostTable
        >>> params = CostTable("params", {"a": {"x": 0.0, "y": 9.0}}, 1.0)
        >>> latency = CostTable("latency", {"a": {"x": 9.0, "y": 0.0}}, 1.0)
        >>> together(CostPlan({"params": params, "latency": latency}, {"params": 5, "latency": 5}))
        'No architecture is within all budgets.'
    """
    if len(plan.budgets) < 2:
        return ""
    return {
        "yes": "Some architecture is within all budgets.",
        "no": "No architecture is within all budgets.",
        "not known": "Whether an architecture is within all budgets is not known: none was found, but not all were"
        " ruled out.",
    }[plan.fit().word]

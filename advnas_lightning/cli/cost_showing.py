"""Shows the costs in a file: by candidate, and as a plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from advnas_lightning.cli.options import MORE_KINDS
from advnas_lightning.cost.files import Measurement, read_costs
from advnas_lightning.cost.plan import CostPlan
from advnas_lightning.cost.plan_table import DIGITS, plan_table, together
from advnas_lightning.reading import read_json
from advnas_lightning.runs import COSTS, RunFolder, in_run
from advnas_lightning.space.genotype import LATER, SELECTIONS, Genotype, check_genotype
from advnas_lightning.texts import counted, listed, readable, rich
from advnas_lightning.validate import as_number

WIDTH = 100  # columns of what is printed where there is no terminal
MOST = 30  # candidates that are shown


def show_file(path: str, budgets: Mapping[str, float] | None) -> None:
    """Print the costs in a file.

    Args:
        path: The file, or the folder of a run.
        budgets: Budgets by the name of the cost, if there are any.

    Raises:
        ValueError: The file has no costs, or a budget is of none of them.
    """
    file = in_run(path, COSTS)
    found = read_costs(file)
    show_costs(found, budgets or {}, found_architectures(file.resolve().parent, found))


def show_costs(
    found: Mapping[str, Measurement], budgets: Mapping[str, float], genotypes: Mapping[str, Genotype]
) -> None:
    """Print the costs of all candidates, what there is, and how it was measured.

    Args:
        found: The costs.
        budgets: Budgets by the name of the cost.
        genotypes: Architectures of the same edges and candidates, whose costs are shown too, by a word or two.
    """
    plan = CostPlan({name: each.table for name, each in found.items()}, budgets)
    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    console.print(_candidates(plan))
    choices = {
        word: [names.index(genotype[edge]) for edge, names in zip(plan.edges, plan.candidates, strict=True)]
        for word, genotype in genotypes.items()
    }
    console.print()
    console.print(plan_table(plan, choices))
    console.print()
    for name, each in found.items():
        own = MORE_KINDS[name][1] if name in MORE_KINDS else "a unit of your own"
        groups = len(each.table.interactions)
        beside = f"besides the sum, {counted(groups, 'group')} of edges cost something together" if groups else ""
        words = filter(None, [each.table.unit or own, beside, agreement(each.measured)])
        console.print(rich(f"{name}: {'; '.join(words)}"), soft_wrap=True)
    how = {name: described(each.measured) for name, each in found.items()}
    for text in dict.fromkeys(how.values()):
        names = [name for name, each in how.items() if each == text]
        console.print(rich(f"{listed(names)}: {text}" if len(names) < len(how) else f"all {text}"), soft_wrap=True)
    sentence = together(plan)
    if sentence:
        console.print(sentence, soft_wrap=True)


def found_architectures(folder: Path, found: Mapping[str, Measurement]) -> dict[str, Genotype]:
    """The architectures that a run has found, if they are of the edges and candidates of the costs.

    Args:
        folder: The folder of the run, or another one, which has none.
        found: The costs.

    Raises:
        ValueError: The run's file of architectures is damaged, or of another network.
    """
    path, genotypes = RunFolder(folder).genotype, {}
    if not path.is_file():
        return {}
    plan = CostPlan({name: each.table for name, each in found.items()})
    try:
        content = read_json(path)
        for kind in (*SELECTIONS, *LATER):
            if isinstance(content, dict) and isinstance(content.get(kind), dict):
                genotype = Genotype(content[kind])
                check_genotype(genotype, dict(zip(plan.edges, plan.candidates, strict=True)))
                genotypes[kind.replace("_", "-")] = genotype
    except ValueError as error:
        raise ValueError(f"{path} has no architectures of these costs: {error}; move it away") from None
    return genotypes


def described(measured: Mapping[str, Any]) -> str:
    """How a cost was measured, in words.

    Args:
        measured: What the file says about it.

    Example:
        >>> described({"device": "cpu", "threads": 2, "batch": [[64, 3, 32, 32], [64]]})
        'measured on cpu, 2 threads, a batch of 64×3×32×32'
        >>> described({})
        'measured by a search'
    """
    if not measured:
        return "measured by a search"
    words = [f"measured on {measured.get('device', 'an unknown device')}"]
    words += [str(measured["device_name"])] if measured.get("device_name") else []
    words += [counted(measured["threads"], "thread")] if isinstance(measured.get("threads"), int) else []
    words += [f"PyTorch {measured['torch']}"] if "torch" in measured else []
    shapes = measured.get("batch")
    if isinstance(shapes, list) and shapes and isinstance(shapes[0], list):
        words.append(f"a batch of {'×'.join(map(str, shapes[0])) or '1'}")
    words += [str(measured["date"])] if "date" in measured else []
    return ", ".join(words)


def agreement(measured: Mapping[str, Any]) -> str:
    """How well the costs of the candidates tell those of whole networks, in words; empty where nobody looked.

    Args:
        measured: What the file says about the measurement.

    Example:
        >>> agreement({"check": {"whole": [1.0, 2.0], "error": 0.25, "r_squared": 0.5}})
        'what they add up to is 25 % off the costs of 2 whole networks in the mean, and R² is 0.500'
    """
    check = measured.get("check")
    if not isinstance(check, dict) or not isinstance(check.get("whole"), list):
        return ""
    error, r_squared = as_number(check.get("error")), as_number(check.get("r_squared"))
    networks = counted(len(check["whole"]), "whole network")
    if error == 0:
        return f"what they add up to is what {networks} cost"
    text = f"what they add up to is {100 * (error or 0):.2g} % off the costs of {networks} in the mean"
    return text if r_squared is None else f"{text}, and R² is {r_squared:.3f}"


def _candidates(plan: CostPlan) -> Table:
    """What each candidate costs in each kind."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("edge")
    table.add_column("candidate")
    for kind in plan.tables:
        table.add_column(rich(kind), justify="right")
    places = [(edge, name) for edge, names in zip(plan.edges, plan.candidates, strict=True) for name in names]
    before = None
    for edge, name in places[:MOST]:
        costs = [readable(each.edges[edge][name], DIGITS) for each in plan.tables.values()]
        table.add_row(rich("" if edge == before else edge), rich(name), *costs)
        before = edge
    if len(places) > MOST:
        table.add_row(f"and {counted(len(places) - MOST, 'more candidate')} in the file")
    table.add_row("beside the edges", "", *(readable(each.fixed, DIGITS) for each in plan.tables.values()))
    return table

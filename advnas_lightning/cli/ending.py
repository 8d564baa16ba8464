"""The end of a run in the terminal: what was found, how good it is, and what to type next."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from advnas_lightning.callbacks.standing import WORDS
from advnas_lightning.callbacks.summary import MARKS, SummaryCallback
from advnas_lightning.cli.process import line_to_train, program
from advnas_lightning.cli.trust import without_strangers
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.published import TABLE_3
from advnas_lightning.report.drawing import draw_genotype
from advnas_lightning.report.palette import STRATEGIES
from advnas_lightning.runs import RunFolder
from advnas_lightning.texts import counted, readable, rich, shortened, writable

MOST = 60  # edges in the table


def show(summary: dict[str, Any], strategy: SearchStrategy, callbacks: Sequence[SummaryCallback], folder: Path) -> None:
    """Print the found architecture with its probabilities, the results of the run, and the next lines to type.

    Args:
        summary: The content of ``summary.json``.
        strategy: The search.
        callbacks: What adds columns and lines.
        folder: The folder of the run.
    """
    console = Console()
    console.print()
    console.print(rich(title(summary)), style="bold", soft_wrap=True)
    console.print(_table(strategy, callbacks, console.width))
    console.print()
    lines: dict[str, str] = {}
    for callback in callbacks:
        lines |= {name: writable(text) for name, text in callback.lines(strategy).items()}
    lines |= {name: writable(text) for name, text in _results(summary).items()}
    lines |= _costs(summary, strategy)
    if strategy.searches and "entropy" in summary:
        lines["entropy"] = f"{summary['entropy']:.4f}"
    lines["network"] = f"{readable(1e6 * summary['params_millions'])} parameters in the found network"
    lines["time"] = f"{summary['seconds']:.1f} s"
    lines["files"] = os.path.relpath(folder)
    width = max(map(len, lines))
    for name, value in lines.items():
        console.print(rich(f"{name:<{width}}  {value}"), soft_wrap=True)
    for note in notes(summary, strategy):
        console.print(rich(f"note: {writable(note)}"), soft_wrap=True, style="yellow")
    following = next_lines(summary, strategy, folder)
    if following:
        console.print("\nnext", style="bold")
        for name, line in following.items():
            console.print(rich(f"  {name:<{max(map(len, following))}}  {line}"), soft_wrap=True)


def draw(
    summary: Mapping[str, Any], strategy: SearchStrategy, callbacks: Sequence[SummaryCallback], path: Path
) -> None:
    """Draw the found architecture with its probabilities, and its right and wrong choices where these are known.

    Args:
        summary: The content of ``summary.json``.
        strategy: The search.
        callbacks: What knows right choices.
        path: The file.
    """
    genotype = strategy.genotype(strategy.selected)
    rows = strategy.probabilities() if strategy.searches else {}
    right: dict[str, bool] = {}
    for callback in callbacks:
        right |= callback.right(strategy)
    draw_genotype(
        genotype,
        path,
        title=title(summary),
        probabilities={edge: rows[edge][genotype[edge]] for edge in rows},
        right=right,
    )


def title(summary: Mapping[str, Any]) -> str:
    """What a run was, in words.

    Args:
        summary: The content of ``summary.json``.

    Example:
        >>> title({"strategy": "gdas", "task": "toy", "selected": "process_best", "epochs": 20})
        'GDAS on toy: the process-best architecture after 20 epochs'
        >>> title({"strategy": "fixed", "task": "ptb", "selected": "argmax", "epochs": 1, "found_by": "gdas"})
        'the architecture that GDAS found, trained on ptb for 1 epoch'
    """
    epochs = counted(summary.get("epochs", 0), "epoch")
    if summary["strategy"] == "fixed":
        finder = summary.get("found_by")
        which = "a given architecture" if finder is None else f"the architecture that {strategy_title(finder)} found"
        return f"{which}, trained on {summary['task']} for {epochs}"
    kind = WORDS[summary["selected"]]
    return f"{strategy_title(summary['strategy'])} on {summary['task']}: the {kind} architecture after {epochs}"


def strategy_title(name: str) -> str:
    """The strategy's name as the paper writes it.

    Example:
        >>> strategy_title("gdas"), strategy_title("mine")
        ('GDAS', 'mine')
    """
    return STRATEGIES[name].title if name in STRATEGIES else name


def notes(summary: Mapping[str, Any], strategy: SearchStrategy) -> list[str]:
    """What is unusual about the end of a run, each in a sentence.

    Args:
        summary: The content of ``summary.json``.
        strategy: The search.
    """
    found = []
    if not summary.get("epochs"):
        found.append("nothing was trained (0 epochs): this is the architecture at the start; see trainer.max_epochs")
    elif strategy.searches and strategy.architecture_steps == 0:
        warmup = strategy.warmup_epochs
        reason = f"θ waits for {warmup} epochs of warm-up (task.optimization.warmup_epochs)" if warmup else "none came"
        also = "" if strategy.cost is None else ", and the cost had no effect"
        found.append(f"no architecture step was taken, since {reason}: nothing was searched{also}")
    bad = [name for name, value in summary.items() if "loss" in name and isinstance(value, float)]
    bad = [name for name in bad if not math.isfinite(summary[name])]
    if bad:
        found.append(f"{bad[-1]} is not finite: lower a learning rate, or clip the gradients")
    left_out = {kind: count for kind, count in strategy.guard.total.items() if count}
    for kind, count in left_out.items():
        found.append(f"{count} {kind} step(s) were left out, because their loss or gradient was not finite")
    return found


def next_lines(summary: Mapping[str, Any], strategy: SearchStrategy, folder: Path) -> dict[str, str]:
    """The commands that one may want to type next, by what they do.

    Args:
        summary: The content of ``summary.json``.
        strategy: The search.
        folder: The folder of the run.
    """
    if not HydraConfig.initialized():  # pragma: no cover
        return {}
    command, place = program(sys.argv), os.path.relpath(folder)
    is_search, trains = summary["strategy"] != "fixed", strategy.optimizations["weights"].made is not None
    retrain_follows = any(each.startswith("retrain=") for each in HydraConfig.get().overrides.task)
    found = {}
    if is_search and trains and not retrain_follows:
        hydra = HydraConfig.get()
        found["retrain"] = line_to_train(hydra.overrides.task, hydra.runtime.config_sources, place)
    trust = _trust(RunFolder(folder).config)
    if is_search and trains:
        found["refine"] = shlex.join([*command, "refine", place, *trust])
    found["report"] = shlex.join([*command, "report", place])
    if strategy.searches:
        found["diagnose"] = shlex.join([*command, "diagnose", place, *trust])
    return found


def _trust(settings: Path) -> list[str]:
    """What a command needs to make the classes that a run has made."""
    if not settings.is_file():  # as with hydra.output_subdir=null
        return []
    try:
        without_strangers(OmegaConf.load(settings), settings)  # type: ignore[arg-type]
    except ValueError:
        return ["trust=true"]
    return []


def _table(strategy: SearchStrategy, callbacks: Sequence[SummaryCallback], width: int) -> Table:
    """The found candidate of each edge, with its probability where it was searched."""
    genotype = strategy.genotype(strategy.selected)
    columns = {"edge": list(genotype), "found": list(genotype.values())}
    if strategy.searches:
        rows = strategy.probabilities()
        columns["probability"] = [f"{rows[edge][candidate]:.2f}" for edge, candidate in genotype.items()]
    for callback in callbacks:
        columns |= callback.columns(strategy)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    longest = max((width - 15) // 2, 12)
    for column in columns:
        table.add_column(rich(column), no_wrap=True, justify="right" if column == "probability" else "left")
    for row in list(zip(*columns.values(), strict=True))[:MOST]:
        table.add_row(*(_cell(text, longest) for text in row))
    if len(genotype) > MOST:
        table.add_row(f"and {len(genotype) - MOST} more in genotype.json")
    return table


def _cell(text: str, longest: int) -> Text:
    cell = rich(shortened(text, longest))
    cell.stylize(MARKS.get(text, ""))
    return cell


def _results(summary: Mapping[str, Any]) -> dict[str, str]:
    """The test and validation results of the selected architecture, beside the paper's where it has one."""
    results = {}
    theirs = TABLE_3.get(summary.get("found_by", ""), {}) if summary["task"] == "ptb" else {}
    for part, word, name in (("test", "test", "test"), ("val", "validation", "validation")):
        for key, value in summary.items():
            if key.startswith(f"selected/{part}/"):
                text = f"{value:.6g}"
                if key.endswith("perplexity") and name in theirs:
                    text += f" (the paper's {strategy_title(summary['found_by'])}: {theirs[name]})"
                in_training = summary.get(key.removeprefix("selected/"))  # of the arg max
                if summary["selected"] != "argmax" and in_training is not None:
                    text += f" (arg max: {in_training:.6g})"
                results[f"{word} {key.removeprefix(f'selected/{part}/')}"] = text
    return results


def _costs(summary: Mapping[str, Any], strategy: SearchStrategy) -> dict[str, str]:
    if strategy.cost is None:
        return {}
    if "cost" not in summary:
        return {"cost": "not known, because no architecture step was taken"}
    unit = strategy.cost.unit
    expected = f"{readable(summary['expected_cost'], 4)} in the mean over draws"
    if strategy.cost.budget is not None:
        expected += f", with a budget of {readable(strategy.cost.budget, 4)}"
    return {
        "cost": f"{readable(summary['cost'], 4)} {unit}, at a penalty of {summary['cost_penalty']:.4g}",
        "expected cost": expected,
    }

"""The command line of a diagnosis.

    python -m advnas_lightning.diagnose ckpt_path=RUN/checkpoints/last.ckpt [strategies=a,b,…] [draws=N] [batches=N]
    python -m advnas_lightning.diagnose task=linear

Prints a table and a recommendation, and writes ``diagnosis.json``, ``.png`` and ``.svg`` into the folder ``output``.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import LightningDataModule
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from advnas_lightning.callbacks.checkpoint import intact_checkpoint
from advnas_lightning.cli.config import Config
from advnas_lightning.cli.main import USER_ERRORS, explain
from advnas_lightning.cli.run import build_strategy
from advnas_lightning.diagnose.quality import (
    ESTIMATORS,
    Credit,
    EstimatorStatistics,
    Truth,
    diagnose_fit,
    estimates_of,
    estimator,
    recommend,
)
from advnas_lightning.objectives import Outcome
from advnas_lightning.report.palette import looks
from advnas_lightning.runs import RunFolder, write_json
from advnas_lightning.space import MixedOp
from advnas_lightning.strategies import AdvantageNAS, SearchStrategy
from advnas_lightning.validate import check_int

OPTIONS: dict[str, Any] = {
    "ckpt_path": None, "task": None, "strategies": None, "draws": 200, "batches": 4, "progress": 0.5, "seed": 0,
    "exact_draws": 2000, "output": "diagnosis", "threads": None,
}  # fmt: skip
COLUMNS = (
    "bias", "its noise", "variance", "cosine", "draw cosine", "SNR", "s per step", "SNR per s", "cosine in 1 s",
    "as exact",
)  # fmt: skip


def load(path: str | Path) -> tuple[SearchStrategy, LightningDataModule]:
    """The search whose checkpoint it is, as it was, and its data.

    Raises:
        ValueError: there is no such checkpoint, or its run's settings are not beside it.
    """
    checkpoint = intact_checkpoint(path)
    settings = RunFolder(checkpoint.resolve().parents[1]).config
    if not settings.is_file():
        raise ValueError(f"ckpt_path={path} is of no run's folder: {settings} is missing")
    config = OmegaConf.load(settings)
    config = OmegaConf.merge(OmegaConf.structured(Config), config)  # an older run's has no settings that are newer
    assert isinstance(config, DictConfig)
    data: LightningDataModule = instantiate(config.task.data)
    data.prepare_data()
    data.setup("fit")
    search = build_strategy(config, data)
    search.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    return search, data


def show(truth: Truth, qualities: Sequence[EstimatorStatistics], credit: Credit) -> None:
    """Print."""
    whole_table = not sys.stdout.isatty() and "COLUMNS" not in os.environ  # for which a file has room
    console = Console(width=140 if whole_table else None)
    table = Table("estimator", *COLUMNS, title=f"estimates of ∇θ E[L]; exact: {truth.by}")
    for each in qualities:
        values = [each.bias, each.noise, each.variance, each.cosine, each.draw_cosine, each.snr, each.seconds]
        values += [each.snr_per_second, each.second_cosine]
        table.add_row(each.name, *(f"{value:.3g}" for value in values), f"{each.agreement(truth)}/{len(truth.raises)}")
    console.print(table)
    size = float(truth.gradient.norm())
    console.print(
        f"Without any bias, {qualities[0].draws} draws would show “its noise”, and what is taken for exact is"
        f" {truth.error / max(size, 1e-30):.2g} off. ‖∇θ E[L]‖ = {size:.3g}.",
        highlight=False,
    )
    choices = ", ".join(f"{edge} {candidate}" for edge, candidate in truth.raises.items())
    console.print(
        f"The exact gradient raises most: {choices}. “As exact”: on how many edges an estimator's mean does the same.",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"Eq. (7) against Eq. (6): rank correlation {credit.rank_correlation:.3f}, same sign in"
        f" {credit.sign_agreement:.0%} ({credit.draws} draws).",
        highlight=False,
    )
    console.print(f"Recommended: {recommend(qualities)}.", highlight=False, soft_wrap=True)


def draw(qualities: Sequence[EstimatorStatistics], folder: Path) -> None:
    """Bias against noise of one step: near the origin is better, below the diagonal noise outweighs bias."""
    figure = Figure(figsize=(7.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    known = looks(each.name.partition("-")[0] for each in qualities)
    for each in qualities:
        look = known[each.name.partition("-")[0]]
        x, y = math.sqrt(max(each.variance, 1e-12)), max(each.bias, each.noise)
        face = "none" if "-" in each.name else look.colour
        axes.scatter(x, y, s=60, marker=look.marker, edgecolors=look.colour, facecolors=face, zorder=3, label=each.name)
    axes.set(xscale="log", yscale="log", xlabel="standard deviation of one step / ‖∇θ E[L]‖")
    axes.set_ylabel("bias / ‖∇θ E[L]‖, or the noise of its estimate")
    axes.grid(alpha=0.3)
    axes.margins(0.1)
    figure.legend(loc="outside right upper", fontsize=8)
    save(figure, folder)


def save(figure: Figure, folder: Path) -> None:
    """As PNG and SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending in ("png", "svg"):
        figure.savefig(folder / f"diagnosis.{ending}", dpi=160)


# -- §4.4 --------------------------------------------------------------------------------------------------------------


class LinearNet(nn.Module):
    """§4.4: E edges alike, of which each adds −r_j to the loss; the mean reward of uniform draws is zero."""

    def __init__(self, edges: int, rewards: Sequence[float]) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            MixedOp(f"edge{edge}", {f"op{j}": _Constant(-reward) for j, reward in enumerate(rewards)})
            for edge in range(edges)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The loss, for x = 1."""
        return torch.stack([edge(x) for edge in self.edges]).sum()


class _Constant(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return self.value * x


class LinearSearch(AdvantageNAS):
    """Its search: the loss is the network's output."""

    def loss(self, batch: Tensor) -> Outcome:
        """−Σ_i r_i."""
        return Outcome(self.model(batch), 1)


def linear(names: Sequence[str], draws: int, seed: int, folder: Path) -> dict[str, dict[str, float]]:
    """The variance per edge of each estimator's step by the number of edges, as a table and a figure.

    Theorem 4.2 and its corollary for §4.4: REINFORCE's grows by a constant with each edge, AdvantageNAS's does not.
    """
    rewards, sizes = (1.0, -2.0, 0.5, 0.5), (1, 2, 4, 8, 16, 32)
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for edges, name in itertools.product(sizes, names):
        adam = partial(torch.optim.Adam, lr=1e-3)
        search = LinearSearch(LinearNet(edges, rewards), architecture_optimizer=adam)
        made = estimator(name, search, progress=0.5, seed=seed)
        estimates = torch.stack([each for each, _ in estimates_of(made, [torch.ones(())], draws)])
        found[name][str(edges)] = float(estimates.var(0).sum() / edges)
    table = Table("estimator", *map(str, sizes), title="variance per edge, by the number of edges (§4.4)")
    for name, row in found.items():
        table.add_row(name, *(f"{value:.3g}" for value in row.values()))
    # Uniform p, and a baseline that knows the mean reward, which is 0
    p, r = 1 / len(rewards), torch.tensor(rewards)
    second = p * r.square().sum() * (1 - p)
    constant, slope = float(second - (p * r).square().sum()), float(second)
    table.add_section()
    table.add_row("advantage, exactly", *(f"{constant:.3g}" for _ in sizes))
    table.add_row("reinforce, exactly", *(f"{constant + slope * (size - 1):.3g}" for size in sizes))
    Console().print(table)
    figure = Figure(figsize=(6.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    known = looks(name.partition("-")[0] for name in names)
    none = [name for name, row in found.items() if not any(row.values())]  # which a logarithm cannot show
    for name, row in found.items():
        if name in none:
            continue
        look = known[name.partition("-")[0]]
        style = "--" if "-" in name else "-"
        axes.plot(sizes, list(row.values()), style, color=look.colour, marker=look.marker, label=name)
    axes.set(xscale="log", yscale="log", xlabel="number of edges", ylabel="variance of the estimate, per edge")
    axes.set_xticks(sizes, list(map(str, sizes)))
    axes.legend(fontsize=8, title=f"0: {', '.join(none)}" if none else None, title_fontsize=8)
    axes.grid(alpha=0.3)
    save(figure, folder)
    return found


# -- the command line --------------------------------------------------------------------------------------------------


def read_options(arguments: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE, as the rest of the package has it.

    Raises:
        ValueError: an unknown key, or what is missing.
    """
    options = dict(OPTIONS)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in OPTIONS or not equals:
            raise ValueError(f"{argument!r} is unknown: give {', '.join(f'{name}=…' for name in OPTIONS)}")
        options[key] = OmegaConf.to_container(OmegaConf.from_dotlist([argument]))[key] if value else None  # type: ignore[index, call-overload]
    if (options["ckpt_path"] is None) == (options["task"] is None):
        raise ValueError("give ckpt_path=RUN/checkpoints/last.ckpt, or task=linear")
    if options["task"] not in (None, "linear"):
        raise ValueError(f"task={options['task']} is unknown: use linear, or ckpt_path=… of any task's run")
    names = options["strategies"]
    options["strategies"] = list(ESTIMATORS) if names is None else str(names).split(",")
    unknown = [name for name in options["strategies"] if name not in ESTIMATORS]
    if unknown:
        raise ValueError(f"strategies has {', '.join(unknown)}: use some of {', '.join(ESTIMATORS)}")
    for name, least in {"draws": 2, "batches": 1, "exact_draws": 2}.items():
        check_int(name, options[name], least=least)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line.

    Raises:
        SystemExit: with 1 and one line of explanation, for bad input.
    """
    try:
        options = read_options(sys.argv[1:] if arguments is None else arguments)
        if options["threads"] is not None:
            torch.set_num_threads(check_int("threads", options["threads"], least=1))
        folder = Path(options["output"])
        if options["task"] == "linear":
            found = linear(options["strategies"], options["draws"], options["seed"], folder)
            write_json(folder / "diagnosis.json", found)
        else:
            search, data = load(options["ckpt_path"])
            names = ("strategies", "draws", "exact_draws", "progress", "seed", "batches")
            on_progress = partial(print, "…", file=sys.stderr, flush=True)
            logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
            settings = {name: options[name] for name in names}
            truth, qualities, credit = diagnose_fit(search, datamodule=data, on_progress=on_progress, **settings)
            show(truth, qualities, credit)
            draw(qualities, folder)
            kept = {"exact": truth.by, "exact_error": truth.error, "exact_raises": truth.raises}
            kept["credit"] = asdict(credit)
            write_json(
                folder / "diagnosis.json", {**kept, "estimators": {each.name: asdict(each) for each in qualities}}
            )
        print(folder / "diagnosis.png")
    except USER_ERRORS as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

"""The example of §4.4, in which the variance of REINFORCE grows with the number of edges."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from advnas_lightning.diagnose.output import TITLE, better, readable
from advnas_lightning.diagnose.quality import estimates_of, estimator
from advnas_lightning.objectives import Outcome
from advnas_lightning.report.palette import styles
from advnas_lightning.report.plots import RC_PARAMS, save_figure
from advnas_lightning.space.mixed_op import MixedOp
from advnas_lightning.strategies.advantage import AdvantageNAS

REWARDS, SIZES = (1.0, -2.0, 0.5, 0.5), (1, 2, 4, 8, 16, 32)  # r_j, and the numbers of edges


class LinearNet(nn.Module):
    """The network of §4.4: E equal edges, each of which adds −r_j to the loss. The rewards r_j have a mean of zero.

    Args:
        edges: The number of edges E.
        rewards: The rewards r_j of the candidates.

    Example:
        >>> LinearNet(2, (1.0, -1.0)).edges[0].names
        ('op0', 'op1')
    """

    def __init__(self, edges: int, rewards: Sequence[float]) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            MixedOp(f"edge{edge}", {f"op{j}": _Constant(-reward) for j, reward in enumerate(rewards)})
            for edge in range(edges)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the edges' outputs, which is the loss if x is 1."""
        return torch.stack([edge(x) for edge in self.edges]).sum()


class _Constant(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return self.value * x


class LinearSearch(AdvantageNAS):
    """A search on :class:`LinearNet`, whose output is the loss.

    Example:
        >>> search = LinearSearch(LinearNet(2, (3.0, -3.0)), architecture_optimizer=torch.optim.Adam)
        >>> float(search.evaluate(search.one_hot([0, 0]), torch.ones(())).loss)
        -6.0
    """

    def loss(self, batch: Tensor) -> Outcome:
        """The loss −Σ_i r_i of the current architecture."""
        return Outcome(self.model(batch), 1)


def linear(names: Sequence[str], draws: int, seed: int) -> dict[str, dict[str, float]]:
    """The variance per edge of each estimator's step, by the number of edges.

    By Theorem 4.2 and its corollary for §4.4, that of REINFORCE grows by a constant with each edge, and that of
    AdvantageNAS does not.

    Args:
        names: The names of the estimators.
        draws: The number of estimates for each variance.
        seed: The seed of the draws.

    Returns:
        The variances by estimator and number of edges.

    Example:
        >>> list(linear(["darts"], draws=2, seed=0)["darts"].values())
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for edges, name in itertools.product(SIZES, names):
        adam = partial(torch.optim.Adam, lr=1e-3)
        search = LinearSearch(LinearNet(edges, REWARDS), architecture_optimizer=adam)
        made = estimator(name, search, progress=0.5, seed=seed)
        estimates = torch.stack([each for each, _ in estimates_of(made, [torch.ones(())], draws)])
        found[name][str(edges)] = float(estimates.var(0).sum() / edges)
    return found


def theory() -> dict[str, list[float]]:
    """The exact variances by estimator. They hold for uniform p, and a baseline that knows the mean reward, which is 0.

    Example:
        >>> {name: values[:2] for name, values in theory().items()}
        {'advantage': [0.6875, 0.6875], 'reinforce': [0.6875, 1.71875]}
    """
    p, rewards = 1 / len(REWARDS), torch.tensor(REWARDS)
    second = p * rewards.square().sum() * (1 - p)
    constant, slope = float(second - (p * rewards).square().sum()), float(second)
    return {"advantage": [constant] * len(SIZES), "reinforce": [constant + slope * (size - 1) for size in SIZES]}


def show_linear(found: Mapping[str, Mapping[str, float]]) -> None:
    """Print the variances as a table.

    Args:
        found: The variances by estimator and number of edges.
    """
    table = Table("estimator", title="variance of one step per edge, by the number of edges")
    for size in SIZES:
        table.add_column(str(size), justify="right")
    for name, row in found.items():
        table.add_row(name, *(f"{value:.3g}" for value in row.values()))
    table.add_section()
    for name, values in theory().items():
        table.add_row(f"{name}, exactly", *(f"{value:.3g}" for value in values))
    Console().print(table)
    Console().print(
        "Lower is better. An estimator whose numbers grow to the right gets noisier with every edge (section 4.4 of the"
        " paper).",
        highlight=False,
    )


def draw_linear(found: Mapping[str, Mapping[str, float]], folder: Path) -> None:
    """Draw the variances, and write the figure.

    Args:
        found: The variances by estimator and number of edges.
        folder: The folder for the figure.
    """
    with mpl.rc_context(RC_PARAMS):
        figure = Figure(figsize=(7.6, 4.4), layout="constrained")
        axes = figure.add_subplot()
        style_of = styles(name.partition("-")[0] for name in found)
        none = [name for name, row in found.items() if not any(row.values())]  # a logarithmic axis cannot show 0
        for name, row in found.items():
            if name in none:
                continue
            base, _, variant = name.partition("-")
            style, dashes = style_of[base], {"": "-", "exact": "--"}.get(variant, ":")
            axes.plot(SIZES, list(row.values()), dashes, color=style.colour, marker=style.marker, label=name)
        axes.set(xscale="log", yscale="log", xlabel="number of edges", ylabel="variance of one step, per edge")
        axes.set_xticks(SIZES, list(map(str, SIZES)))
        axes.xaxis.set_minor_locator(NullLocator())
        readable(axes, "y")
        axes.set_title("Noise of the gradient's estimate, by the number of edges", loc="left", **TITLE)
        silent = "\n".join(["no noise:", *none])
        if len(none) < len(found):
            legend = figure.legend(loc="outside right upper", title=f"{silent}\n" if none else None)
            legend.get_title().set_fontsize(8)
        else:
            axes.text(0.5, 0.5, silent, transform=axes.transAxes, ha="center", va="center")
        better(axes, (1.13, 0.3), (1.13, 0.08))
        save_figure(figure, folder / "diagnosis")

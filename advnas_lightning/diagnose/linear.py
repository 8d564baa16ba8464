"""The example of §4.4, in which the variance of REINFORCE grows with the number of edges."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from advnas_lightning.diagnose.output import save
from advnas_lightning.diagnose.quality import estimates_of, estimator
from advnas_lightning.objectives import Outcome
from advnas_lightning.report.palette import styles
from advnas_lightning.space.mixed_op import MixedOp
from advnas_lightning.strategies.advantage import AdvantageNAS


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


def linear(names: Sequence[str], draws: int, seed: int, folder: Path) -> dict[str, dict[str, float]]:
    """Print and draw the variance per edge of each estimator's step, by the number of edges.

    By Theorem 4.2 and its corollary for §4.4, that of REINFORCE grows by a constant with each edge, and that of
    AdvantageNAS does not.

    Args:
        names: The names of the estimators.
        draws: The number of estimates for each variance.
        seed: The seed of the draws.
        folder: The folder for the figure.

    Returns:
        The variances by estimator and number of edges.
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
    # These hold for uniform p and for a baseline that knows the mean reward, which is 0.
    p, r = 1 / len(rewards), torch.tensor(rewards)
    second = p * r.square().sum() * (1 - p)
    constant, slope = float(second - (p * r).square().sum()), float(second)
    table.add_section()
    table.add_row("advantage, exactly", *(f"{constant:.3g}" for _ in sizes))
    table.add_row("reinforce, exactly", *(f"{constant + slope * (size - 1):.3g}" for size in sizes))
    Console().print(table)
    figure = Figure(figsize=(6.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    style_of = styles(name.partition("-")[0] for name in names)
    none = [name for name, row in found.items() if not any(row.values())]  # a logarithmic axis cannot show 0
    for name, row in found.items():
        if name in none:
            continue
        style = style_of[name.partition("-")[0]]
        dashes = "--" if "-" in name else "-"
        axes.plot(sizes, list(row.values()), dashes, color=style.colour, marker=style.marker, label=name)
    axes.set(xscale="log", yscale="log", xlabel="number of edges", ylabel="variance of the estimate, per edge")
    axes.set_xticks(sizes, list(map(str, sizes)))
    axes.legend(fontsize=8, title=f"0: {', '.join(none)}" if none else None, title_fontsize=8)
    axes.grid(alpha=0.3)
    save(figure, folder)
    return found

"""Time and memory against the number of edges, cells and candidates, each with a figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import SGD

from advnas_lightning import MixedOp
from advnas_lightning.report.palette import STRATEGIES
from advnas_lightning.report.plots import RC_PARAMS, SOFT
from advnas_lightning.tasks.cifar10 import NASBench201
from benchmarks.cases.cifar10 import contest, loaders
from benchmarks.cases.offload import conv
from benchmarks.measuring import Contest, compare
from benchmarks.rows import Row

PLAIN = partial(SGD, lr=0.01)  # without momentum, whose state would grow with every candidate that is ever drawn
# By case: what it counts, the numbers of it, and those of a tiny run.
AXES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "edges": ("edges", (6, 20, 60, 200, 600), (2, 4)),
    "cells": ("cells", (3, 6, 12, 24, 48), (3, 6)),
    "candidates": ("candidates per edge", (4, 8, 16, 32, 64), (2, 3)),
}


class Chain(nn.Module):
    """Edges with names of their own in a row. Each adds the output of one of four small layers.

    The layers take so little time that most of a step is what an edge costs by itself.

    Args:
        edges: E, the number of edges.
        width: The width of the layers.
    """

    def __init__(self, edges: int, width: int) -> None:
        super().__init__()
        kinds = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid}

        def candidates() -> dict[str, nn.Module]:
            return {name: nn.Sequential(nn.Linear(width, width), kind()) for name, kind in kinds.items()}

        self.edges = nn.ModuleList(MixedOp(f"edge {index}", candidates()) for index in range(edges))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, width]`` to logits ``[B, 10]``."""
        for edge in self.edges:
            x = torch.add(x, edge(x), alpha=1 / len(self.edges))
        logits: Tensor = self.head(x)
        return logits


def make_edges(edges: int, size: int, steps: int) -> Contest:
    """AdvantageNAS on a chain of edges, with batches of ``size`` rows that are as wide."""
    torch.manual_seed(0)
    return contest("advantage", Chain(edges, size), loaders(steps, size, size), weights=PLAIN)


def make_cells(cells: int, size: int, steps: int) -> Contest:
    """AdvantageNAS on NAS-Bench-201's network, whose cells share six edges, with a third of the cells in each stage.

    A batch has ``size`` images of as many pixels in each direction.
    """
    torch.manual_seed(0)
    network, data = NASBench201(cells=cells // 3), loaders(steps, size, 3, size, size)
    return contest("advantage", network, data, weights=PLAIN)


def make_candidates(candidates: int, size: int, steps: int) -> Contest:
    """AdvantageNAS on NAS-Bench-201's network with three cells, whose candidates are equal convolutions."""
    torch.manual_seed(0)
    network = NASBench201(cells=1, operations={f"conv {index}": conv for index in range(candidates)})
    return contest("advantage", network, loaders(steps, size, 3, size, size), weights=PLAIN)


def scaling(case: str, *, small: bool) -> list[Row]:
    """Measure the pair of steps at each number."""
    makes: dict[str, Callable[[int, int, int], Contest]] = {
        "edges": make_edges,
        "cells": make_cells,
        "candidates": make_candidates,
    }
    words, full, tiny = AXES[case]
    size, turns = (4, 2) if small else (64 if case == "edges" else 32, 20)
    rows = []
    for number in tiny if small else full:
        rows += compare(case, partial(makes[case], number, size), turns=turns, what=f"{number} {words}")
    return rows


def figure(case: str, rows: Sequence[Row]) -> Figure:
    """Draw the rows of a case: the time at the left, and the memory at the right.

    Args:
        case: The name of the case.
        rows: Its rows.
    """
    with mpl.rc_context(RC_PARAMS):
        picture = Figure(figsize=(7.4, 3.0), layout="constrained")
        time, memory = picture.subplots(1, 2)
        numbers = [int(row.what.partition(" ")[0]) for row in rows]
        ours = {"label": "AdvantageNAS by Trainer.fit", "color": STRATEGIES["advantage"].colour, "marker": "o"}
        bare = {"label": rows[0].against, "color": SOFT, "marker": "s", "linestyle": (0, (4, 2))}
        for style, times, sizes in (
            (ours, [row.ours for row in rows], [row.memory for row in rows]),
            (bare, [row.other for row in rows], [row.other_memory for row in rows]),
        ):
            time.plot(numbers, times, markersize=4, **style)
            memory.plot(numbers, sizes, markersize=4, **style)
        time.set(ylabel="ms per pair of steps")
        memory.set(ylabel="peak MiB beside the network")
        for axes in (time, memory):
            top = 1.08 * axes.get_ylim()[1]
            axes.set(xlabel=f"number of {AXES[case][0]}", xlim=(0, None), ylim=(0, top))
        time.legend(loc="best")
    return picture

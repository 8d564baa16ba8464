"""Search spaces small enough to enumerate, shared by the tests of the strategies. Everything here is float64."""

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from advnas_lightning import Architecture, MixedOp, SearchSpace, SearchStrategy
from advnas_lightning.objectives import Objective, Outcome

S = TypeVar("S", bound=SearchStrategy)
Mix = Callable[[MixedOp, Tensor], Tensor]


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


class Zero(nn.Module):
    is_zero_op = True

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Net(nn.Module):
    """Three edges of 2, 3 and 4 candidates, of which ``a`` is met twice, as in a stack of cells; far from additive."""

    sizes = (2, 3, 4)

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.first = MixedOp("a", {"linear": nn.Linear(3, 3), "tanh": nn.Tanh()})
        self.side = MixedOp("b", {"linear": nn.Linear(3, 3), "skip": nn.Identity(), "square": Square()})
        self.second = MixedOp("a", {"linear": nn.Linear(3, 3), "tanh": nn.Tanh()})
        self.last = MixedOp("c", {"linear": nn.Linear(3, 3), "skip": nn.Identity(), "square": Square(), "zero": Zero()})
        self.double()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x, lambda op, value: op(value))

    def compute(self, x: Tensor, mix: Mix) -> Tensor:
        """The network with any way of evaluating an edge, so that a reference need not go through MixedOp."""
        hidden = torch.tanh(mix(self.first, x) + mix(self.side, x))
        return mix(self.second, hidden) * mix(self.last, hidden) + hidden


def weighted(gates: Tensor, ran: Sequence[Collection[int]] | None = None, *, ones: bool = False) -> Mix:
    """Eq. (1) written out with ``gates`` [E, J]: Σ_j a_j O_j(x) over the candidates that ``ran`` (all, by default).

    With ``ones`` a candidate that did not run stands for a tensor of ones.
    """
    rows = dict(zip("abc", range(len(gates)), strict=True))

    def mix(op: MixedOp, x: Tensor) -> Tensor:
        row = rows[op.name]
        result = torch.zeros_like(x)
        for j, candidate in enumerate(op.candidates.values()):
            if ran is None or j in ran[row]:
                result = result + gates[row, j] * candidate(x)
            elif ones:
                result = result + gates[row, j] * torch.ones_like(x)
        return result

    return mix


def loss_of(net: Net, mix: Mix, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared error, as ``Regression`` has it."""
    inputs, targets = batch
    return (net.compute(inputs, mix) - targets).square().mean()


def batch_of(seed: int, size: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, size, 3, generator=generator, dtype=torch.double).unbind(0)  # type: ignore[return-value]


class Entry(nn.Module):
    """A candidate that reads its output off a table."""

    def __init__(self, edge: int, index: int, *, zero_op: bool = False) -> None:
        super().__init__()
        self.edge, self.index, self.is_zero_op = edge, index, zero_op

    def forward(self, table: Tensor) -> Tensor:
        return table[self.edge, self.index]


class TableNet(nn.Module):
    """Edge e outputs ``table[e, j]`` for its candidate j: the batch is the table [E, J, D], the output [E, D]."""

    def __init__(self, sizes: Sequence[int], zero_ops: Collection[tuple[int, int]] = ()) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            MixedOp(f"edge{e}", {f"op{j}": Entry(e, j, zero_op=(e, j) in zero_ops) for j in range(size)})
            for e, size in enumerate(sizes)
        )

    def forward(self, table: Tensor) -> Tensor:
        return torch.stack([edge(table) for edge in self.edges])


class Cost(Objective):
    """A loss of the network's output alone; by default minus its sum, so that r(a) = Σ r_iᵀ a_i (§4.4)."""

    def __init__(self, cost: Callable[[Tensor], Tensor] = lambda y: -y.sum(), size: int = 1) -> None:
        super().__init__()
        self.cost, self.size = cost, size

    def forward(self, model: nn.Module, batch: Tensor) -> Outcome:
        return Outcome(self.cost(model(batch)), self.size)


def make(strategy: type[S], model: nn.Module, **options: Any) -> S:
    """A strategy in float64 with a θ that is neither uniform nor extreme."""
    made = strategy(model, architecture_optimizer=partial(torch.optim.Adam, lr=0.1), **options).double()
    if hasattr(made, "theta"):
        made.theta.data.normal_(generator=torch.Generator().manual_seed(7))
    return made


def every_choice(space: SearchSpace) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(row)) for row in space.candidates)))


def in_double(architecture: Architecture) -> Architecture:
    """The package's one-hot gates are float32: with these an estimate is exact to float64."""
    return replace(architecture, gates=architecture.gates.double())


def row_probs(theta: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """p_i of each edge, without its padding; θ may have leading dimensions."""
    rows = [theta[..., edge, :size].exp() for edge, size in enumerate(sizes)]
    return [row / row.sum(-1, keepdim=True) for row in rows]


def joint(theta: Tensor, sizes: Sequence[int]) -> Tensor:
    """p(a) of every architecture in the order of :func:`every_choice`, [..., N]."""
    first, *rest = row_probs(theta, sizes)
    for row in rest:
        first = (first.unsqueeze(-1) * row.unsqueeze(-2)).flatten(-2)
    return first


def one_hot_rows(choice: Sequence[int], width: int) -> Tensor:
    rows = torch.zeros(len(choice), width, dtype=torch.double)
    for edge, j in enumerate(choice):
        rows[edge, j] = 1
    return rows


def fit(strategy: SearchStrategy, batches: Sequence[Any], epochs: int = 1, valid: Sequence[Any] | None = None) -> None:
    """A run of the real loop: for each batch a weight step, and an architecture step on its like among ``valid``."""
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Not the lists themselves: Lightning takes a list for a collection of loaders.
    weights, architecture = (DataLoader(part, batch_size=None) for part in (batches, valid or batches))
    trainer.fit(strategy, {"weights": weights, "architecture": architecture})


def surprise(counts: Tensor, probs: Tensor) -> float:
    """Pearson's statistic of ``counts`` under ``probs``, as a multiple of what chance exceeds once in a million.

    The bound d + 2√(dx) + 2x on the tail e^−x of a χ² variable is that of Laurent and Massart (2000), Lemma 1.
    """
    assert counts[probs == 0].sum() == 0
    counts, probs = counts[probs > 0].double(), probs[probs > 0].double()
    expected = counts.sum() * probs
    assert expected.min() > 5, "too few draws for a χ² statistic"
    degrees, x = len(probs) - 1, math.log(1e6)
    return float(((counts - expected) ** 2 / expected).sum() / (degrees + 2 * math.sqrt(degrees * x) + 2 * x))

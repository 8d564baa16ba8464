"""Edges whose candidates multiply by a number, so that every gradient is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advnas_lightning import Architecture, MixedOp, SearchSpace


class Scale(nn.Module):
    """k · x with a parameter k; counts its calls and the gradients that come back to it."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.double))
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        y = self.k * x
        if y.requires_grad:
            y.register_hook(self._count)
        return y

    def _count(self, gradient: Tensor) -> None:
        self.backwards += 1


class Cut(nn.Module):
    is_zero_op = True

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def scales(*ks: float) -> dict[str, nn.Module]:
    return {f"x{k:g}": Scale(k) for k in ks}


class Ragged(nn.Module):
    """Edge a (three candidates) in two cells and in three time steps each, edge b (one candidate), edge c (two)."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(MixedOp("a", scales(1, 2, 3)) for _ in range(2))
        self.b = MixedOp("b", scales(5))
        self.c = MixedOp("c", {"zero": Cut(), **scales(7)})

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            for cell in self.cells:
                x = cell(x).tanh()
        return self.b(x) + self.c(x)

    def calls(self) -> dict[str, tuple[int, int]]:
        """How often each candidate ran (forward, backward)."""
        return {
            path: (module.forwards, module.backwards)
            for path, module in self.named_modules()
            if isinstance(module, Scale) and (module.forwards or module.backwards)
        }


def loss_of(model: nn.Module) -> Tensor:
    return model(torch.linspace(-1, 2, 6, dtype=torch.double)).square().sum()


def dense(space: SearchSpace, seed: int = 0) -> Architecture:
    weights = torch.rand(space.mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return Architecture(weights * space.mask, space.all_paths)


def gate_gradient(model: nn.Module, space: SearchSpace, architecture: Architecture) -> Tensor:
    gates = architecture.gates.double().requires_grad_()
    with space.bind(architecture, gates):
        return torch.autograd.grad(loss_of(model), gates)[0]


def finite_differences(model: nn.Module, space: SearchSpace, weights: Tensor) -> Tensor:
    """∂L/∂a of the dense network, one gate at a time."""
    gradient = torch.zeros_like(weights)
    for edge, j in space.mask.nonzero().tolist():
        values = []
        for step in (1e-6, -1e-6):
            moved = weights.clone()
            moved[edge, j] += step
            with torch.no_grad(), space.bind(Architecture(moved, space.all_paths)):
                values.append(loss_of(model))
        gradient[edge, j] = (values[0] - values[1]) / 2e-6
    return gradient


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


class Parts(nn.Module):
    """Returns tensors of several shapes in nested containers, beside things that are no floating-point tensors."""

    def __init__(self, k: float, **other: Any) -> None:
        super().__init__()
        self.k, self.other = nn.Parameter(torch.tensor(k, dtype=torch.double)), other

    def forward(self, x: Tensor, *, shift: float = 0.0) -> Any:
        places = torch.arange(3) if "places" not in self.other else self.other["places"]
        rest = {"word": "same", "empty": None, **self.other.get("rest", {})}
        return self.k * x + shift, [places, {"sum": (self.k * x).exp().sum(), **rest}]


def tensors(output: Any) -> tuple[Tensor, Tensor]:
    return output[0], output[1][1]["sum"]


def parts_loss(output: Any) -> Tensor:
    first, total = tensors(output)
    return first.square().sum() + 3 * total.sin()


def by_hand(edge: MixedOp, index: int, x: Tensor) -> tuple[Any, Tensor]:
    """A candidate's output, and Σ_k ⟨∂L/∂y_k, y_k⟩ over the tensors in it, without gates."""
    output = edge.candidates[edge.names[index]](x, shift=0.5)
    gradients = torch.autograd.grad(parts_loss(output), tensors(output))
    return output, sum((g * y).sum() for g, y in zip(gradients, tensors(output), strict=True))


X = torch.linspace(-1, 2, 6, dtype=torch.double)

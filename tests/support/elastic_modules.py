"""Modules that can be elastic, and plain modules of their small sizes, with weights that are sliced by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advnas_lightning import elastic

Weights = Callable[[dict[str, Tensor], int], dict[str, Tensor]]


@dataclass(frozen=True)
class Case:
    """A kind of elastic module.

    Attributes:
        widest: Makes the module.
        axis: The size that is elastic.
        sizes: The sizes.
        plain: Makes a plain module of a size.
        weights: Slices the widest module's state by hand.
        inputs: Makes an input of a size.
    """

    widest: Callable[[], nn.Module]
    axis: str
    sizes: tuple[Any, ...]
    plain: Callable[[Any], nn.Module]
    weights: Weights
    inputs: Callable[[Any], Tensor]

    def elastic(self, module: nn.Module) -> Any:
        return elastic(module, name="edge", **{self.axis: list(self.sizes)})

    def small(self, module: nn.Module, size: Any) -> nn.Module:
        """A plain module of a size with the sliced weights, in double precision."""
        small = self.plain(size).double()
        small.load_state_dict(self.weights(dict(module.state_dict()), size), strict=True)
        return small


def rows(state: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: value[:n] if value.dim() else value for name, value in state.items()}


def columns(state: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: value[:, :n] if name == "weight" else value for name, value in state.items()}


def halves(state: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    parts = state["weight"].chunk(2, dim=1)
    return {**state, "weight": torch.cat([part[:, :n] for part in parts], dim=1)}


def rows_of_halves(state: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: torch.cat([part[:n] for part in value.chunk(2)]) for name, value in state.items()}


def transposed(state: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: value[:, :n] if name == "weight" else value[:n] for name, value in state.items()}


def first_inputs(state: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: value[:n] if name == "weight" else value for name, value in state.items()}


def transposed_groups(state: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: value[: n // 2] if name == "weight" else value[:n] for name, value in state.items()}


def centre(full: int) -> Weights:
    def weights(state: dict[str, Tensor], n: Any) -> dict[str, Tensor]:
        sides = n if isinstance(n, tuple) else (n,) * (state["weight"].dim() - 2)
        index = [slice((full - side) // 2, (full + side) // 2) for side in sides]
        return {**state, "weight": state["weight"][:, :, *index]}

    return weights


def vectors(n: int) -> Tensor:
    return torch.randn(3, 5, n)


def fixed(*shape: int) -> Callable[[Any], Tensor]:
    return lambda _: torch.randn(*shape)


def images(n: int) -> Tensor:
    return torch.randn(3, n, 5, 4)


CASES: dict[str, Case] = {
    "linear out": Case(
        lambda: nn.Linear(4, 8), "out_features", (2, 5, 8), lambda n: nn.Linear(4, n), rows, fixed(3, 5, 4)
    ),
    "linear out without bias": Case(
        lambda: nn.Linear(4, 8, bias=False),
        "out_features",
        (2, 5, 8),
        lambda n: nn.Linear(4, n, bias=False),
        rows,
        fixed(4),
    ),
    "linear in": Case(lambda: nn.Linear(8, 4), "in_features", (2, 5, 8), lambda n: nn.Linear(n, 4), columns, vectors),
    "linear out in halves": Case(
        lambda: nn.Linear(4, 16), "out_halves", (2, 5, 8), lambda n: nn.Linear(4, 2 * n), rows_of_halves, fixed(3, 5, 4)
    ),
    "embedding": Case(
        lambda: nn.Embedding(7, 8, padding_idx=0),
        "embedding_dim",
        (2, 8),
        lambda n: nn.Embedding(7, n, padding_idx=0),
        columns,
        lambda _: torch.randint(7, (3, 5)),
    ),
    "embedding bag": Case(
        lambda: nn.EmbeddingBag(7, 8, mode="max"),
        "embedding_dim",
        (2, 8),
        lambda n: nn.EmbeddingBag(7, n, mode="max"),
        columns,
        lambda _: torch.randint(7, (3, 5)),
    ),
    "conv1d out": Case(
        lambda: nn.Conv1d(4, 8, 3), "out_channels", (2, 8), lambda n: nn.Conv1d(4, n, 3), rows, fixed(3, 4, 6)
    ),
    "conv1d in": Case(
        lambda: nn.Conv1d(8, 4, 3),
        "in_channels",
        (2, 8),
        lambda n: nn.Conv1d(n, 4, 3),
        columns,
        lambda n: torch.randn(n, 6),
    ),
    "conv2d out": Case(
        lambda: nn.Conv2d(4, 8, 3, stride=2, padding=1, padding_mode="circular"),
        "out_channels",
        (2, 5, 8),
        lambda n: nn.Conv2d(4, n, 3, stride=2, padding=1, padding_mode="circular"),
        rows,
        fixed(3, 4, 5, 4),
    ),
    "conv2d in": Case(
        lambda: nn.Conv2d(8, 4, 3, bias=False),
        "in_channels",
        (2, 5, 8),
        lambda n: nn.Conv2d(n, 4, 3, bias=False),
        columns,
        images,
    ),
    "conv2d of two halves": Case(
        lambda: nn.Conv2d(16, 4, 3),
        "in_halves",
        (2, 5, 8),
        lambda n: nn.Conv2d(2 * n, 4, 3),
        halves,
        lambda n: torch.randn(3, 2 * n, 5, 4),
    ),
    "conv3d out": Case(
        lambda: nn.Conv3d(2, 4, 2), "out_channels", (1, 4), lambda n: nn.Conv3d(2, n, 2), rows, fixed(2, 2, 3, 3, 3)
    ),
    "conv transpose 2d out": Case(
        lambda: nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1, output_padding=1, dilation=2),
        "out_channels",
        (2, 5, 8),
        lambda n: nn.ConvTranspose2d(4, n, 3, stride=2, padding=1, output_padding=1, dilation=2),
        transposed,
        fixed(3, 4, 5, 4),
    ),
    "conv transpose 2d in": Case(
        lambda: nn.ConvTranspose2d(8, 4, 2, stride=2),
        "in_channels",
        (2, 5, 8),
        lambda n: nn.ConvTranspose2d(n, 4, 2, stride=2),
        first_inputs,
        images,
    ),
    "conv transpose 1d in groups": Case(
        lambda: nn.ConvTranspose1d(8, 16, 3, groups=4),
        "out_channels",
        (4, 8, 16),
        lambda n: nn.ConvTranspose1d(n // 2, n, 3, groups=n // 4),
        transposed_groups,
        lambda n: torch.randn(3, n // 2, 6),
    ),
    "conv transpose 3d out": Case(
        lambda: nn.ConvTranspose3d(2, 4, 2, bias=False),
        "out_channels",
        (1, 4),
        lambda n: nn.ConvTranspose3d(2, n, 2, bias=False),
        transposed,
        fixed(2, 2, 2, 2, 2),
    ),
    "depthwise": Case(
        lambda: nn.Conv2d(8, 8, 3, groups=8),
        "out_channels",
        (2, 5, 8),
        lambda n: nn.Conv2d(n, n, 3, groups=n),
        rows,
        images,
    ),
    "groups": Case(
        lambda: nn.Conv1d(8, 16, 3, groups=4),
        "out_channels",
        (4, 8, 16),
        lambda n: nn.Conv1d(n // 2, n, 3, groups=n // 4),
        rows,
        lambda n: torch.randn(3, n // 2, 6),
    ),
    "kernel": Case(
        lambda: nn.Conv2d(4, 3, 7, padding=3, stride=2),
        "kernel_size",
        (1, 3, 7),
        lambda n: nn.Conv2d(4, 3, n, padding=(n - 1) // 2, stride=2),
        centre(7),
        fixed(3, 4, 9, 8),
    ),
    "kernel reflected": Case(
        lambda: nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=2, padding_mode="reflect"),
        "kernel_size",
        ((1, 3), (5, 5)),
        lambda n: nn.Conv2d(
            4, 4, n, padding=tuple(side - 1 for side in n), dilation=2, groups=2, padding_mode="reflect"
        ),
        centre(5),
        fixed(3, 4, 9, 8),
    ),
    "kernel same": Case(
        lambda: nn.Conv1d(4, 3, 6, padding="same"),
        "kernel_size",
        (2, 6),
        lambda n: nn.Conv1d(4, 3, n, padding="same"),
        centre(6),
        fixed(3, 4, 9),
    ),
    "kernel same circular": Case(
        lambda: nn.Conv2d(4, 3, 5, padding="same", padding_mode="circular"),
        "kernel_size",
        (3, 5),
        lambda n: nn.Conv2d(4, 3, n, padding="same", padding_mode="circular"),
        centre(5),
        fixed(3, 4, 9, 8),
    ),
    "batch norm 1d": Case(
        lambda: nn.BatchNorm1d(8), "num_features", (2, 5, 8), nn.BatchNorm1d, rows, lambda n: torch.randn(3, n)
    ),
    "batch norm 2d": Case(
        lambda: nn.BatchNorm2d(8, momentum=None),
        "num_features",
        (2, 8),
        lambda n: nn.BatchNorm2d(n, momentum=None),
        rows,
        images,
    ),
    "batch norm without statistics": Case(
        lambda: nn.BatchNorm2d(8, affine=False, track_running_stats=False),
        "num_features",
        (2, 8),
        lambda n: nn.BatchNorm2d(n, affine=False, track_running_stats=False),
        rows,
        images,
    ),
    "instance norm 1d": Case(
        lambda: nn.InstanceNorm1d(8, affine=True),
        "num_features",
        (2, 8),
        lambda n: nn.InstanceNorm1d(n, affine=True),
        rows,
        lambda n: torch.randn(n, 6),  # one signal without a batch
    ),
    "instance norm 2d": Case(
        lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        "num_features",
        (2, 5, 8),
        lambda n: nn.InstanceNorm2d(n, affine=True, track_running_stats=True),
        rows,
        images,
    ),
    "instance norm without parameters": Case(
        lambda: nn.InstanceNorm3d(8),
        "num_features",
        (2, 8),
        nn.InstanceNorm3d,
        rows,
        lambda n: torch.randn(2, n, 2, 3, 2),
    ),
    "prelu": Case(lambda: nn.PReLU(8), "num_parameters", (2, 5, 8), nn.PReLU, rows, images),
    "layer norm": Case(lambda: nn.LayerNorm(8), "normalized_shape", (2, 5, 8), nn.LayerNorm, rows, vectors),
    "rms norm": Case(lambda: nn.RMSNorm(8), "normalized_shape", (2, 8), nn.RMSNorm, rows, vectors),
    "group norm": Case(
        lambda: nn.GroupNorm(4, 8), "num_channels", (2, 6, 8), lambda n: nn.GroupNorm(n // 2, n), rows, images
    ),
    "group norm of one group": Case(
        lambda: nn.GroupNorm(1, 8), "num_channels", (3, 8), lambda n: nn.GroupNorm(1, n), rows, images
    ),
}
SIZES = [(name, size) for name, case in CASES.items() for size in case.sizes]


def filled(module: nn.Module) -> nn.Module:
    """A module in double precision whose parameters and running statistics are all different."""
    module.double()
    for number, (name, tensor) in enumerate(module.state_dict().items()):
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, dtype=torch.double, generator=torch.Generator().manual_seed(number))
            tensor.copy_(values.abs() + 0.5 if name.endswith("var") else values)
    return module


def double(inputs: Tensor) -> Tensor:
    return inputs.double().requires_grad_() if inputs.is_floating_point() else inputs

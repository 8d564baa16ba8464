"""A small network of elastic modules, and the same with a separate module for each candidate."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advnas_lightning import MixedOp, elastic
from tests.support.small_search import CLASSES, FEATURES

WIDTHS, HIDDEN, KERNELS = [4, 6, 8], [3, 10], [1, 3, 5]


class ElasticNet(nn.Module):
    """A residual stream of elastic width with two equal blocks of elastic hidden width, and a kernel before it."""

    def __init__(self, *, dropout: float = 0.0, norm: bool = True, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = elastic(nn.Conv1d(1, 1, 5, padding=2), kernel_size=KERNELS, name="kernel")
            self.stem = elastic(nn.Linear(FEATURES, 8), out_features=WIDTHS, name="width")
            self.blocks = nn.ModuleList(
                nn.ModuleList(
                    [
                        elastic(nn.LayerNorm(8), normalized_shape=WIDTHS, name="width"),
                        elastic(
                            nn.Linear(8, 10),
                            in_features=WIDTHS,
                            out_features=HIDDEN,
                            name={"in_features": "width", "out_features": "hidden"},
                        ),
                        elastic(
                            nn.Linear(10, 8),
                            in_features=HIDDEN,
                            out_features=WIDTHS,
                            name={"in_features": "hidden", "out_features": "width"},
                        ),
                    ]
                )
                for _ in range(2)
            )
            self.norm = nn.Identity()
            if norm:
                self.norm = elastic(nn.BatchNorm1d(8), num_features=WIDTHS, name="width")
            self.dropout = nn.Dropout(dropout)
            self.head = elastic(nn.Linear(8, CLASSES), in_features=WIDTHS, name="width")
            for weight in self.parameters():  # the norms' are not all alike
                nn.init.normal_(weight, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.conv(x.unsqueeze(1)).squeeze(1))
        for norm, up, down in self.blocks:
            x = x + self.dropout(down(F.relu(up(norm(x)))))
        return self.head(F.relu(self.norm(x)))


class Padded(nn.Module):
    """A module on the first entries of its input, with zeros behind its output."""

    def __init__(self, module: nn.Module, reads: int, gives: int) -> None:
        super().__init__()
        self.module, self.reads, self.gives = module, reads, gives

    def forward(self, x: Tensor) -> Tensor:
        y = self.module(x[..., : self.reads])
        return F.pad(y, (0, self.gives - y.shape[-1]))


def separate(net: ElasticNet) -> nn.Module:
    """The same network with a module of its own for each candidate, which has copies of the slices.

    Its edges give outputs of the widest size, as Eq. (1) is meant.
    """

    def filled(small: nn.Module, **state: Tensor) -> nn.Module:
        small.load_state_dict({**small.state_dict(), **state}, strict=True)
        return small

    def linear(name: str, wide: Any, sizes: list[int]) -> MixedOp:
        small = {n: filled(nn.Linear(wide.in_features, n), weight=wide.weight[:n], bias=wide.bias[:n]) for n in sizes}
        return MixedOp(name, {str(n): Padded(each, wide.in_features, wide.out_features) for n, each in small.items()})

    def norm(kind: Any, wide: Any) -> MixedOp:
        small = {n: filled(kind(n), weight=wide.weight[:n], bias=wide.bias[:n]) for n in WIDTHS}
        return MixedOp("width", {str(n): Padded(each, n, 8) for n, each in small.items()})

    def wide(op: Any) -> Any:
        while not type(op).__module__.startswith("torch."):
            op = op.widest
        return op

    made: Any = nn.Module.__new__(ElasticNet)
    nn.Module.__init__(made)
    weight, bias = wide(net.conv).weight, wide(net.conv).bias
    made.conv = MixedOp(
        "kernel",
        {
            str(k): filled(nn.Conv1d(1, 1, k, padding=k // 2), weight=weight[..., 2 - k // 2 : 3 + k // 2], bias=bias)
            for k in KERNELS
        },
    )
    made.stem = linear("width", wide(net.stem), WIDTHS)
    made.blocks = nn.ModuleList(
        nn.ModuleList(
            [
                norm(nn.LayerNorm, wide(first)),
                linear("hidden", wide(up), HIDDEN),
                linear("width", wide(down), WIDTHS),
            ]
        )
        for first, up, down in net.blocks
    )
    made.norm, made.dropout = norm(nn.BatchNorm1d, wide(net.norm)), nn.Dropout(net.dropout.p)
    made.head = wide(net.head)
    return made.to(weight.dtype)


HEADS, HEAD = [1, 2, 4], 2


class AttentionNet(nn.Module):
    """A layer of a transformer with elastic heads and an elastic feed-forward width."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Linear(1, 8)
            self.layer: Any = elastic(
                nn.TransformerEncoderLayer(8, HEADS[-1], HIDDEN[-1], dropout=0.0),
                num_heads=HEADS,
                dim_feedforward=HIDDEN,
                name={"num_heads": "heads", "dim_feedforward": "hidden"},
            )
            self.head = nn.Linear(8, CLASSES)
            for weight in self.parameters():
                nn.init.normal_(weight, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.stem(x.T.unsqueeze(-1))).mean(0))


class PlainAttention(nn.Module):
    """Self-attention of sequences [L, B, E] by linear layers of its own."""

    batch_first = False

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Linear(width, heads * HEAD) for _ in range(3))
        self.out = nn.Linear(heads * HEAD, width)

    def forward(self, x: Tensor, *_: Tensor, **__: Any) -> tuple[Tensor, None]:
        q, k, v = (each(x).unflatten(-1, (-1, HEAD)) for each in (self.queries, self.keys, self.values))
        scores = torch.einsum("lbhd,sbhd->bhls", q, k) / HEAD**0.5
        return self.out(torch.einsum("bhls,sbhd->lbhd", scores.softmax(-1), v).flatten(2)), None


def separate_attention(net: AttentionNet) -> nn.Module:
    """The same network with a module of its own for each candidate, which has copies of the slices."""
    made, layer = AttentionNet(), copy.deepcopy(net.layer)
    wide, up = layer.self_attn.widest, layer.linear1.widest
    candidates = {}
    for heads in HEADS:
        candidates[str(heads)] = small = PlainAttention(8, heads)
        rows = slice(heads * HEAD)
        with torch.no_grad():
            for each, weight, bias in zip(
                (small.queries, small.keys, small.values),
                wide.in_proj_weight.chunk(3),
                wide.in_proj_bias.chunk(3),
                strict=True,
            ):
                each.weight.copy_(weight[rows])
                each.bias.copy_(bias[rows])
            small.out.weight.copy_(wide.out_proj.weight[:, rows])
            small.out.bias.copy_(wide.out_proj.bias)
    made.stem, made.layer, made.head = copy.deepcopy(net.stem), layer, copy.deepcopy(net.head)
    layer.self_attn = MixedOp("heads", candidates)
    hidden = {}
    for size in HIDDEN:
        hidden[str(size)] = narrow = Padded(nn.Linear(8, size), 8, HIDDEN[-1])
        with torch.no_grad():
            narrow.module.weight.copy_(up.weight[:size])  # type: ignore[operator, union-attr]
            narrow.module.bias.copy_(up.bias[:size])  # type: ignore[operator, union-attr]
    layer.linear1, layer.linear2 = MixedOp("hidden", hidden), layer.linear2.widest
    return made.to(up.weight.dtype)


class SkipNet(nn.Module):
    """A small U-Net on images of 2 × 2 pixels: a level below, a transposed convolution up, and a skip beside it."""

    def __init__(self) -> None:
        super().__init__()
        top, deep, last = [2, 6], [3, 5], [1, 4]
        self.enter = nn.Sequential(
            elastic(nn.Conv2d(1, 6, 3, padding=1), out_channels=top, name="top"),
            elastic(nn.InstanceNorm2d(6, affine=True), num_features=top, name="top"),
            elastic(nn.PReLU(6), num_parameters=top, name="top"),
        )
        self.down = nn.Sequential(
            elastic(
                nn.Conv2d(6, 5, 2, stride=2),
                in_channels=top,
                out_channels=deep,
                name={"in_channels": "top", "out_channels": "deep"},
            ),
            elastic(nn.BatchNorm2d(5), num_features=deep, name="deep"),
            nn.Tanh(),
        )
        self.up = elastic(
            nn.ConvTranspose2d(5, 6, 2, stride=2),
            in_channels=deep,
            out_channels=top,
            name={"in_channels": "deep", "out_channels": "top"},
        )
        self.join = elastic(
            nn.Conv2d(12, 4, 3, padding=1),
            in_halves=top,
            out_channels=last,
            name={"in_halves": "top", "out_channels": "last"},
        )
        self.head = elastic(nn.Linear(4, CLASSES), in_features=last, name="last")

    def forward(self, x: Tensor) -> Tensor:
        skip = self.enter(x.unflatten(1, (1, 2, 2)))
        joined = self.join(torch.cat([skip, self.up(self.down(skip))], dim=1))
        return self.head(joined.tanh().mean((2, 3)))


class GatedNet(nn.Module):
    """A feed-forward part with a layer that computes the gate and what it multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.up = elastic(nn.Linear(FEATURES, 12), out_halves=[2, 6], name="ffn")
        self.down = elastic(nn.Linear(6, CLASSES), in_features=[2, 6], name="ffn")

    def forward(self, x: Tensor) -> Tensor:
        gate, values = self.up(x).chunk(2, dim=-1)
        return self.down(gate.sigmoid() * values)

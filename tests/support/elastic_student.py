"""A student of the toy task with elastic layers, two of which multiply their sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advnas_lightning import elastic

PIXELS = 169
FIRST, SECOND = [4, 8, 16], [2, 6, 16]


class ElasticStudent(nn.Module):
    """Maps images ``[B, 1, 13, 13]`` to outputs ``[B]``. As in the task's own network, no weight is trained."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Flatten(),
                elastic(nn.Linear(PIXELS, FIRST[-1]), out_features=FIRST, name="first"),
                nn.ReLU(),
                elastic(
                    nn.Linear(FIRST[-1], SECOND[-1]),
                    in_features=FIRST,
                    out_features=SECOND,
                    name={"in_features": "first", "out_features": "second"},
                ),
                nn.ReLU(),
                elastic(nn.Linear(SECOND[-1], 1), in_features=SECOND, name="second"),
            ).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(-1)


def parameters(first: int, second: int) -> int:
    """The number of parameters of the plain network of two sizes."""
    return (PIXELS + 1) * first + (first + 1) * second + second + 1

"""The steps of GDAS as its authors' released code takes them, to compare with.

The operations are those of ``NAS201SearchCell.forward_gdas`` and ``TinyNetworkGDAS.forward`` in Xuanyi Dong's
https://github.com/D-X-Y/AutoDL-Projects (MIT license), and of the loop in its ``exps/NAS-Bench-201-algos/GDAS.py``. The
lines are our own. The operations differ from those of this package in the following.

* A cell asks the device for the choice of every edge.
* The output of an edge is the sum over all of its candidates. One that does not run adds its hard weight, a scalar, to
  every number of the output.
* Sums begin with the number 0, which is added to a whole tensor.
* Both steps compute the gradients of the weights and of θ, and both compute and read the loss and two accuracies.
* Images lie in memory channel by channel.

The candidates are those of NAS-Bench-201 without the zero operation, as in our search.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from advnas_lightning.tasks.cifar10 import NASBench201
from advnas_lightning.tasks.cifar10.model import EDGES, NODES, Cell
from benchmarks.bare import Factory, gumbel_softmax
from benchmarks.measuring import device


class ReleasedGDAS:
    """The released code's steps.

    Args:
        network: The searchable network. A copy of it is trained.
        weights: Makes the optimizer of the weights.
        architecture: Makes the optimizer of θ.
        weight_clip: The largest norm of the weights' gradient.
        seed: The seed of the draws.
    """

    def __init__(
        self, network: NASBench201, *, weights: Factory, architecture: Factory, weight_clip: float, seed: int = 0
    ) -> None:
        self.network = copy.deepcopy(network).to(device(), memory_format=torch.contiguous_format)
        self.weights = list(self.network.parameters())
        candidates = len(next(each for each in self.network.modules() if isinstance(each, Cell)).edges["0->1"].names)
        self.theta = nn.Parameter(torch.ones(len(EDGES), candidates, device=device()))  # [E, J]
        self.sgd, self.adam = weights(self.weights), architecture([self.theta])
        self.weight_clip = weight_clip
        self.generator = torch.Generator().manual_seed(seed)

    def steps(self, weights: Any, architecture: Any) -> Iterator[None]:
        """Take a weight step and an architecture step on the batches of two loaders, in turn."""
        for one, other in zip(weights, architecture, strict=True):
            self._step(self.sgd, one, lambda: clip_grad_norm_(self.weights, self.weight_clip))
            self._step(self.adam, other, lambda: None)
            yield

    def _step(self, optimizer: torch.optim.Optimizer, batch: Any, clip: Callable[[], object]) -> None:
        images, labels = move_data_to_device(batch, device())
        optimizer.zero_grad()
        logits = self(images.contiguous())
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        clip()
        optimizer.step()
        best = logits.detach().topk(5, 1).indices.eq(labels[:, None])
        for count in (1, 5):
            best[:, :count].float().sum().mul(100 / len(labels)).item()
        loss.item()

    def __call__(self, images: Tensor) -> Tensor:
        """The logits ``[B, classes]`` of a fresh draw."""
        soft = gumbel_softmax(self.theta, self.generator)  # [E, J]
        index = soft.argmax(-1, keepdim=True)  # [E, 1]
        gates = torch.zeros_like(soft).scatter_(-1, index, 1.0) - soft.detach() + soft
        x = self.network.stem(images)
        for place, stage in enumerate(self.network.stages):
            if place > 0:
                x = self.network.reductions[place - 1](x)
            for cell in stage:
                x = _run(cell, x, gates, index)
        logits: Tensor = self.network.head(x)
        return logits


def _run(cell: Cell, x: Tensor, gates: Tensor, index: Tensor) -> Tensor:
    nodes = [x]
    for j in range(1, NODES):
        incoming = []
        for i in range(j):
            name = f"{i}->{j}"
            own, active = gates[EDGES.index(name)], index[EDGES.index(name)].item()
            candidates = cell.edges[name].candidates.values()
            incoming.append(sum(own[k] * run(nodes[i]) if k == active else own[k] for k, run in enumerate(candidates)))
        nodes.append(sum(incoming))  # type: ignore[arg-type]
    return nodes[-1]

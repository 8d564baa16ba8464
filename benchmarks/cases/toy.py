"""An iteration of the toy task: a teacher's batch, a draw, a forward pass, the gate gradient and a step of θ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from torch.optim import Adam

from advnas_lightning import AdvantageNAS
from advnas_lightning.objectives import Regression
from advnas_lightning.tasks.toy import TeacherData, ToyNetwork
from benchmarks.bare import check_same_work
from benchmarks.measuring import BARE, Contest, compare, device
from benchmarks.rows import Row

ARCHITECTURE = partial(Adam, lr=1e-3)


class BareToy:
    """AdvantageNAS on the toy task, written by hand.

    Attributes:
        theta: The architecture parameters, ``[E, J]``.
    """

    def __init__(self, network: ToyNetwork) -> None:
        self.filters = [[op.matrix.detach().to(device()) for op in edge.candidates.values()] for edge in network.edges]
        self.heads = network.heads.detach().to(device())
        self.theta = torch.nn.Parameter(torch.ones(len(self.filters), len(self.filters[0])))
        self.optimizer = ARCHITECTURE([self.theta])
        self.generator = torch.Generator().manual_seed(0)

    def steps(self, batches: Any) -> Iterator[None]:
        """Take an architecture step on each batch."""
        edges, candidates = self.theta.shape
        for images, outputs in batches:
            p = self.theta.detach().softmax(-1)
            draw = torch.multinomial(p, 1, generator=self.generator).squeeze(1).tolist()
            gates = torch.ones(edges, device=device(), requires_grad=True)
            # The network is linear up to tanh, so that all filters are one product, and the gates scale its columns.
            matrix = torch.cat([row[j] for row, j in zip(self.filters, draw, strict=True)])  # [E * places, pixels]
            nodes = F.linear(images.to(device()).flatten(1), matrix).unflatten(1, (edges, -1)) * gates[:, None]
            loss = F.mse_loss(nodes.flatten(1).tanh() @ self.heads, outputs.to(device()))
            (slopes,) = torch.autograd.grad(loss, gates)
            self.theta.grad = slopes.cpu()[:, None] * (F.one_hot(torch.tensor(draw), candidates) - p)
            self.optimizer.step()
            yield


def make(steps: int, batch_size: int = 100) -> Contest:
    """AdvantageNAS on the toy task, beside the loop."""
    torch.manual_seed(0)
    data, network = TeacherData(batches=steps, batch_size=batch_size), ToyNetwork()
    search = AdvantageNAS(network, architecture_optimizer=ARCHITECTURE, objective=Regression(), zero_op="none")
    batches = TeacherData(batches=steps, batch_size=batch_size).train_dataloader()["architecture"]
    loop = BareToy(network)
    return Contest(
        search.to(device()),
        data.train_dataloader(),
        {BARE: loop.steps(batches)},
        bare=loop,
        kinds=("iteration",),
        verify=partial(check_same_work, search, loop, least=0.99),
    )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """A context in which PyTorch uses so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def iteration(case: str, *, small: bool) -> list[Row]:
    """Measure it with one thread, as ``task=toy`` has it."""
    with threads(1):
        return compare(case, partial(make, batch_size=4 if small else 100), turns=5 if small else 1000)

"""Searches that are written by hand in plain PyTorch, as fast as we know how: without the engine, without Lightning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from advnas_lightning import MixedOp, SearchStrategy
from benchmarks.measuring import device

Factory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Credit = Callable[["PlainEdge", Sequence[Tensor], Tensor, Tensor], None]


class PlainEdge(nn.Module):
    """An edge that runs one of its candidates.

    Attributes:
        candidates: The candidates.
        index: The place of the edge in the search space.
        choice: The index of the candidate that runs.
        credit: What is called in the backward pass with the edge, its inputs, its output and the gradient of its
            output; ``None`` in weight steps.
    """

    def __init__(self, candidates: Sequence[nn.Module], index: int) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(candidates)
        self.index = index
        self.operations = tuple(candidates)
        self.choice = 0
        self.credit: Credit | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run the candidate. This is no forward of a module, which takes longer to call."""
        output: Tensor = self.operations[self.choice](*inputs)
        if self.credit is None:
            return output
        if not output.requires_grad:  # no weight does, so the graph begins at the first edges
            output = output.detach().requires_grad_()
        elif any(output is each for each in inputs):
            output = output.view_as(output)  # whose gradient is that of this edge alone
        kept = output.detach()  # the output itself would be in a circle with its hook
        output.register_hook(partial(self.credit, self, [each.detach() for each in inputs], kept))
        return output


class BareSearch:
    """AdvantageNAS (Algorithm 1) with the candidates' slopes from hooks: nothing is multiplied by a gate.

    θ is on the CPU, so that draws never wait for the device. The weights are frozen in an architecture step, so that
    its backward pass computes nothing for them.

    Args:
        network: The searchable network. A copy of it is trained.
        loss: Gives the loss of a network on a batch.
        weights: Makes the optimizer of the weights.
        architecture: Makes the optimizer of θ.
        weight_clip: The largest norm of the weights' gradient.
        architecture_clip: The largest norm of θ's gradient.
        autocast: Makes the context of forward passes.
        seed: The seed of the draws.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        loss: Callable[[nn.Module, Any], Tensor],
        weights: Factory,
        architecture: Factory,
        weight_clip: float,
        architecture_clip: float,
        autocast: Callable[[], AbstractContextManager[Any]],
        seed: int = 0,
    ) -> None:
        self.network, self.loss, self.autocast = copy.deepcopy(network).to(device()), loss, autocast
        self.edges = replace_edges(self.network)
        self.weights = list(self.network.parameters())
        candidates = {edge.index: len(edge.operations) for edge in self.edges}
        self.theta = nn.Parameter(torch.ones(len(candidates), max(candidates.values())))  # [E, J]
        self.sgd, self.adam = weights(self.weights), architecture([self.theta])
        self.weight_clip, self.architecture_clip = weight_clip, architecture_clip
        self.generator = torch.Generator().manual_seed(seed)
        self.places: list[int] = []  # of the values, in θ
        self.values: list[Tensor] = []

    def weight_step(self, batch: Any) -> None:
        """Descend the loss of a draw in the weights."""
        with torch.no_grad():
            choice, _ = self.draw()
        self.bind(choice, None)
        self.sgd.zero_grad()
        with self.autocast():
            loss = self.loss(self.network, batch)
        loss.backward()
        clip_grad_norm_(self.weights, self.weight_clip)
        self.sgd.step()

    def architecture_step(self, batch: Any) -> None:
        """Descend the estimate of a fresh draw in θ."""
        choice, drawn_from = self.draw()
        self.bind(choice, self.credit)
        for weight in self.weights:
            weight.requires_grad_(False)
        with self.autocast():
            loss = self.loss(self.network, batch)
        loss.backward()
        for weight in self.weights:
            weight.requires_grad_(True)
        credit = torch.zeros(self.theta.numel())
        credit.index_add_(0, torch.tensor(self.places), torch.stack(self.values).cpu())
        self.places, self.values = [], []
        self.theta.grad = self.theta_gradient(choice, drawn_from, credit.view_as(self.theta))
        clip_grad_norm_([self.theta], self.architecture_clip)
        self.adam.step()

    def bind(self, choice: list[int], credit: Credit | None) -> None:
        """Let the edges run a choice."""
        for edge in self.edges:
            edge.choice, edge.credit = choice[edge.index], credit

    def steps(self, weights: Any, architecture: Any) -> Iterator[None]:
        """Take a weight step and an architecture step on the batches of two loaders, in turn."""
        for one, other in zip(weights, architecture, strict=True):
            self.weight_step(move_data_to_device(one, device()))
            self.architecture_step(move_data_to_device(other, device()))
            yield

    def alternate(self, batches: Any) -> Iterator[None]:
        """Take a weight step on a batch, and an architecture step on the next one."""
        for index, batch in enumerate(batches):
            take = self.architecture_step if index % 2 else self.weight_step
            take(move_data_to_device(batch, device()))
            yield

    def note(self, edge: PlainEdge, candidate: int, value: Tensor) -> None:
        """Add to a candidate's credit."""
        self.places.append(edge.index * self.theta.shape[1] + candidate)
        self.values.append(value)

    # -- what a strategy is --------------------------------------------------------------------------------------------

    def draw(self) -> tuple[list[int], Tensor]:
        """A draw, and what θ's gradient needs of it, ``[E, J]``: here p."""
        probs = self.theta.softmax(-1).detach()
        return torch.multinomial(probs, 1, generator=self.generator).squeeze(1).tolist(), probs

    def credit(self, edge: PlainEdge, inputs: Sequence[Tensor], output: Tensor, grad: Tensor) -> None:
        """Take the slope ⟨∂L/∂y, y⟩ of the candidate that ran."""
        self.note(edge, edge.choice, inner(grad, output))

    def theta_gradient(self, choice: list[int], drawn_from: Tensor, credit: Tensor) -> Tensor:
        """The gradient of θ, ``[E, J]``, from the credit ``[E, J]``."""
        drawn = F.one_hot(torch.tensor(choice), credit.shape[1])
        return credit.sum(-1, keepdim=True) * (drawn - drawn_from)


class BareCounterfactual(BareSearch):
    """CounterfactualNAS in the same way: the other candidates run in the hooks, without a graph."""

    def credit(self, edge: PlainEdge, inputs: Sequence[Tensor], output: Tensor, grad: Tensor) -> None:
        """Take the slope of every candidate."""
        super().credit(edge, inputs, output, grad)
        with torch.no_grad(), self.autocast():
            for index, operation in enumerate(edge.operations):
                if index != edge.choice:
                    self.note(edge, index, inner(grad, operation(*inputs)))

    def theta_gradient(self, choice: list[int], drawn_from: Tensor, credit: Tensor) -> Tensor:
        """The gradient through the softmax, ``[E, J]``."""
        return drawn_from * (credit - (drawn_from * credit).sum(-1, keepdim=True))


class BareGDAS(BareSearch):
    """GDAS in the same way: the gate gradient of a candidate that did not run is Σ ∂L/∂y."""

    def draw(self) -> tuple[list[int], Tensor]:
        """A Gumbel-max draw, and its soft sample with a graph to θ."""
        soft = gumbel_softmax(self.theta, self.generator)
        return soft.argmax(-1).tolist(), soft

    def credit(self, edge: PlainEdge, inputs: Sequence[Tensor], output: Tensor, grad: Tensor) -> None:
        """Take the slope of the candidate that ran, and for each of the others that of an output of ones."""
        super().credit(edge, inputs, output, grad)
        ones = grad.sum(dtype=torch.promote_types(grad.dtype, torch.float32))
        for index in range(len(edge.operations)):
            if index != edge.choice:
                self.note(edge, index, ones)

    def theta_gradient(self, choice: list[int], drawn_from: Tensor, credit: Tensor) -> Tensor:
        """The gradient through the soft sample, ``[E, J]``."""
        return torch.autograd.grad(drawn_from, self.theta, credit)[0]


TEMPERATURE = 5.0  # of GDAS, on both sides; it has no effect on times


def gumbel_softmax(theta: Tensor, generator: torch.Generator) -> Tensor:
    """A soft sample of GDAS, with a graph to θ, ``[E, J]``."""
    noise = -torch.empty(theta.shape).exponential_(generator=generator).log()
    return ((theta.log_softmax(-1) + noise.to(theta.device)) / TEMPERATURE).softmax(-1)


def inner(grad: Tensor, output: Tensor) -> Tensor:
    """The inner product ⟨∂L/∂y, y⟩ in single precision at least, in one pass and in the order of the memory."""
    dtype = torch.promote_types(torch.promote_types(grad.dtype, output.dtype), torch.float32)
    if output.dim() == 4 and output.is_contiguous(memory_format=torch.channels_last):
        grad, output = grad.permute(0, 2, 3, 1), output.permute(0, 2, 3, 1)
    return torch.vdot(output.reshape(-1).to(dtype), grad.reshape(-1).to(dtype))


def replace_edges(network: nn.Module) -> list[PlainEdge]:
    """Put plain edges in the place of those of a network. Edges of one name have one index."""
    names: dict[str, int] = {}
    edges = []
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MixedOp):
                index = names.setdefault(child.name, len(names))
                edge = PlainEdge([child.candidates[each] for each in child.names], index)
                setattr(parent, name, edge)
                edges.append(edge)
    return edges


def check_same_work(search: SearchStrategy, loop: Any, *, least: float) -> None:
    """Compare where θ has moved.

    Args:
        search: The search.
        loop: A loop with the same network, batches and draws, and with its ``theta``.
        least: The least cosine between the two ways that θ has moved.

    Raises:
        RuntimeError: They have moved in different directions.
    """
    theta = search.theta.detach().cpu()
    ours, its = (theta - 1).flatten(), (loop.theta.detach().cpu() - 1).flatten()
    cosine = F.cosine_similarity(ours, its, dim=0).item()
    if not cosine >= least:
        raise RuntimeError(
            f"{type(search).__name__} and {type(loop).__name__} have moved θ in directions with a cosine of"
            f" {cosine:.3f}, less than {least}: the loop does not do the same work, so its time says nothing"
        )

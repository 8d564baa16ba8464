"""The searchable recurrent language model of the ptb task (§5.3, Appendix E)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advnas_lightning.functional import widened
from advnas_lightning.space.copying import HOOKS
from advnas_lightning.space.mixed_op import MixedOp
from advnas_lightning.validate import check_int, check_positive, check_share

__all__ = ["RecurrentLM"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
}

# PyTorch 2.13 and later have a function that computes logits and their gradients part by part, so that all logits are
# never in memory at once.
LINEAR_CROSS_ENTROPY = hasattr(nn, "LinearCrossEntropyOptions")


class _Gated(nn.Module):
    """A candidate with the activation act: y = x + c ∘ (act(u) − x), all ``[B, H]``."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, c: Tensor, u: Tensor) -> Tensor:
        return torch.lerp(x, self.activation(u), c)


class _GatedZero(nn.Module):
    """The candidate with act ≡ 0: y = (1 − c) ∘ x. It does not cut the edge, but is Appendix B's zero operation."""

    is_zero_op = True

    def forward(self, x: Tensor, c: Tensor, u: Tensor) -> Tensor:
        return x - c * x


class RecurrentLM(nn.Module):
    """An embedding, a recurrent cell with a searchable activation on every edge, and a linear decoder.

    The weights of embedding and decoder are not tied. One time step, of the embedded token x and the hidden state h, is
    as follows (§5.3, Appendix E), with N = ``nodes``::

        c_in = σ(W_c [x; h]),  x_0 = h + c_in ∘ (tanh(W_h [x; h]) − h)
        edge i->j:  c = σ(W_c x_i),  y = x_i + c ∘ (act(W_h x_i) − x_i)
        node x_j = mean of the y of its edges i->j, 0 ≤ i < j ≤ N;  h' = mean of x_1 … x_N

    Every edge has matrices of its own, which its candidates share: candidates differ only in ``act`` and have no
    parameters. The edges are named and ordered ``0->1, 0->2, 1->2, 0->3, …``.

    Matrices that are multiplied by the same vector are parts of one parameter, the W_c above the W_h:

    * ``input_weight`` ``[2H, embedding_size]`` and ``hidden_weight`` ``[2H, H]``: the two parts of [x; h];
    * ``node_weights[i]`` ``[2(N − i)H, H]``: W_c of the edges i->i+1 … i->N, then their W_h in the same order.

    There is one departure from the paper, which does not mention hidden states that grow without bound: a state whose
    norm exceeds ``hidden_max_norm`` is rescaled to it, as in ENAS. ``hidden_max_norm=None`` switches that off.

    Args:
        words: The number of words in the vocabulary.
        embedding_size: The width of the embedding.
        hidden_size: H, the width of the hidden state.
        nodes: N, the number of intermediate nodes of the cell.
        dropout: The probability of dropout on the embedding and on the cell's output. The hidden state is carried
            without it.
        hidden_max_norm: The largest norm of a stream's hidden state between time steps, or ``None``.
        candidates: The activations that every edge chooses from, of identity, tanh, sigmoid, relu and zero.

    Raises:
        ValueError: A size is below 1, the probability is outside [0, 1), the norm is not positive, or candidates are
            unknown, repeated or missing.

    Example:
        >>> from advnas_lightning import Genotype
        >>> supernet = RecurrentLM(words=10, embedding_size=4, hidden_size=6, nodes=2)
        >>> list(supernet.edges)
        ['0->1', '0->2', '1->2']
        >>> model = Genotype({"0->1": "tanh", "0->2": "zero", "1->2": "relu"}).apply(supernet)
        >>> logits, hidden = model(torch.zeros(5, 3, dtype=torch.long))
        >>> logits.shape, hidden.shape
        (torch.Size([5, 3, 10]), torch.Size([3, 6]))
    """

    takes_targets = True
    """Whether ``forward`` gives the loss where it is told the targets.

    :class:`~advnas_lightning.objectives.LanguageModelling` then tells it.
    """

    batch_dims: ClassVar = {"tokens": 1, "hidden": 0}
    """The inputs of an exported network, each with the dimension that is the batch."""

    def __init__(
        self,
        *,
        words: int = 10_000,
        embedding_size: int = 300,
        hidden_size: int = 300,
        nodes: int = 3,
        dropout: float = 0.5,
        hidden_max_norm: float | None = 25.0,
        candidates: Sequence[str] = ("identity", "tanh", "sigmoid", "relu", "zero"),
    ) -> None:
        sizes = {"words": words, "embedding_size": embedding_size, "hidden_size": hidden_size, "nodes": nodes}
        for name, size in sizes.items():
            check_int(name, size, least=1)
        check_share("dropout", dropout, zero=True)
        if hidden_max_norm is not None:
            check_positive("hidden_max_norm", hidden_max_norm)
        known = [*ACTIVATIONS, "zero"]
        for candidate in candidates:
            if candidate not in known:
                raise ValueError(f"candidate {candidate!r} is unknown: use some of {', '.join(known)}")
        if not candidates or len(set(candidates)) < len(candidates):
            raise ValueError(f"candidates={list(candidates)}: give at least one, each once, of {', '.join(known)}")
        super().__init__()
        self.nodes = nodes
        self.hidden_size = hidden_size
        self.hidden_max_norm = hidden_max_norm
        self.embedding = nn.Embedding(words, embedding_size)
        self.dropout = nn.Dropout(dropout)
        self.input_weight = nn.Parameter(torch.empty(2 * hidden_size, embedding_size))
        self.hidden_weight = nn.Parameter(torch.empty(2 * hidden_size, hidden_size))
        self.node_weights = nn.ParameterList(
            torch.empty(2 * (nodes - i) * hidden_size, hidden_size) for i in range(nodes)
        )
        names = [f"{i}->{j}" for j in range(1, nodes + 1) for i in range(j)]
        self.edges = nn.ModuleDict({name: MixedOp(name, {c: _candidate(c) for c in candidates}) for name in names})
        self.decoder = nn.Linear(hidden_size, words)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(
        self, tokens: Tensor, hidden: Tensor | None = None, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predict the word after every token.

        Args:
            tokens: The token ids, ``[T, B]``.
            hidden: The state ``[B, H]`` at the end of the earlier window. Without it the state is zero.
            targets: The token ids ``[T, B]`` that are to be predicted.

        Returns:
            The logits ``[T, B, words]``, or with targets their mean cross-entropy, a scalar; and the state ``[B, H]``
            for the window that follows.
        """
        embedded = self.dropout(self.embedding(tokens))  # [T, B, embedding_size]
        if hidden is None:
            hidden = embedded.new_zeros(tokens.shape[1], self.hidden_size)
        outputs = []
        # The products that do not depend on the state are computed for all time steps at once.
        for from_input in F.linear(embedded, self.input_weight):  # [B, 2H]
            output = self._cell(from_input, hidden)  # [B, H]
            outputs.append(output)
            hidden = self._limit(output)
        features = self.dropout(torch.stack(outputs))  # [T, B, H]
        return (self.decoder(features) if targets is None else self._cross_entropy(features, targets)), hidden

    def count_parameters(self) -> int:
        """The number of parameters as the paper's Table 3 counts them, of the search's network or of a discrete one.

        These are the embedding, the decoder and the cell's matrices without biases. The matrices of an edge whose
        operation is zero are not counted. The default network has 7.44 M.
        """
        shared = [self.embedding.weight, self.decoder.weight, self.input_weight, self.hidden_weight]
        active = sum(not getattr(edge, "is_zero_op", False) for edge in self.edges.values())
        return sum(weight.numel() for weight in shared) + active * 2 * self.hidden_size**2

    def _cell(self, from_input: Tensor, hidden: Tensor) -> Tensor:
        """Compute h' ``[B, H]`` from the products of the input ``[B, 2H]`` and the state ``[B, H]``."""
        # Under autocast all products and mixtures are in half precision, but the states keep their own.
        c, u = torch.addmm(from_input, hidden, self.hidden_weight.t()).to(hidden.dtype).chunk(2, -1)  # [B, H] each
        x = torch.lerp(hidden, u.tanh(), c.sigmoid())
        nodes: list[Tensor] = []
        incoming: list[list[Tensor]] = [[] for _ in range(self.nodes + 1)]
        for i, weight in enumerate(self.node_weights):
            leaving = self.nodes - i
            cs, us = F.linear(x, weight).to(x.dtype).chunk(2, -1)  # [B, leaving · H] each
            rows = zip(cs.sigmoid().chunk(leaving, -1), us.chunk(leaving, -1), strict=True)
            for j, (c, u) in enumerate(rows, start=i + 1):
                incoming[j].append(self.edges[f"{i}->{j}"](x, c, u))
            x = _mean(incoming[i + 1]).to(x.dtype)
            nodes.append(x)
        return _mean(nodes)

    def _cross_entropy(self, features: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of the targets ``[T, B]``; features are ``[T, B, H]``."""
        rows, targets = features.flatten(0, 1), targets.flatten()
        is_linear = type(self.decoder) is nn.Linear and not any(getattr(self.decoder, kind) for kind in HOOKS)
        # PyTorch's function does not compute in half precision under autocast.
        kind = rows.device.type  # not every type of device has autocast
        is_mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        if not LINEAR_CROSS_ENTROPY or not is_linear or is_mixed:
            return F.cross_entropy(widened(self.decoder(rows)), targets)
        options = nn.LinearCrossEntropyOptions(allow_retain_graph=True)
        weight: Tensor = self.decoder.weight
        bias: Tensor = self.decoder.bias
        if any(isinstance(edge, MixedOp) and edge.only_gates for edge in self.edges.values()):
            weight, bias = weight.detach(), bias.detach()  # their gradients would be computed in the forward pass
        loss: Tensor = F.linear_cross_entropy(rows, weight, targets, linear_bias=bias, options=options)
        return loss

    def _limit(self, hidden: Tensor) -> Tensor:
        """Rescale the states ``[B, H]`` whose norm exceeds ``hidden_max_norm``."""
        if self.hidden_max_norm is None:
            return hidden
        norm: Tensor = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)  # [B, 1]
        # The norm is clamped and not the ratio, since the norm of a state of zeros has no reciprocal.
        return hidden * (self.hidden_max_norm / norm.clamp(min=self.hidden_max_norm)).to(hidden.dtype)


def _candidate(name: str) -> nn.Module:
    return _GatedZero() if name == "zero" else _Gated(ACTIVATIONS[name]())


def _mean(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.stack(tensors).mean(0)

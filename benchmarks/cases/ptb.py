"""The weight step and the architecture step on Penn Treebank's network at the paper's sizes, with random words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from advnas_lightning import AdvantageNAS
from advnas_lightning.loaders import SearchLoader
from advnas_lightning.objectives import LanguageModelling, Window
from advnas_lightning.tasks.ptb import RecurrentLM
from advnas_lightning.tasks.ptb.data import Windows
from benchmarks.bare import BareSearch
from benchmarks.measuring import BARE, Contest, compare, device
from benchmarks.rows import Row

BARE_32 = "bare loop in fp32"
PRODUCTS = "its matrix products alone"
WEIGHTS, ARCHITECTURE = partial(SGD, lr=20.0), partial(Adam, lr=3e-3)  # those of the search (§5.3)
WEIGHT_CLIP, ARCHITECTURE_CLIP = 0.25, 1.0


@dataclass(frozen=True)
class Sizes:
    """The sizes of the network and of a window.

    Attributes:
        words: V, the number of words.
        width: H, the width of the embedding and of the hidden state.
        nodes: N, the number of nodes of the cell.
        streams: B, the number of streams.
        steps: T, the number of time steps of a window.
        dropout: The probability of dropout.
    """

    words: int = 10_000
    width: int = 300
    nodes: int = 3
    streams: int = 256
    steps: int = 35
    dropout: float = 0.5


FULL, SMALL = Sizes(), Sizes(words=20, width=6, nodes=2, streams=4, steps=3)


class CarriedLoss:
    """The mean loss of a token. The hidden state is carried from window to window."""

    def __init__(self) -> None:
        self.hidden: Tensor | None = None

    def __call__(self, network: nn.Module, window: Window) -> Tensor:
        """Run the network on a window."""
        loss: Tensor
        loss, hidden = network(window.inputs, self.hidden, window.targets)
        self.hidden = hidden.detach()
        return loss


def products(sizes: Sizes, dtype: torch.dtype) -> Iterator[None]:
    """Compute the matrix products of a weight step and of an architecture step in turn, and nothing else.

    A product X Wᵀ of the forward pass has two in the backward pass of a weight step, G W and Gᵀ X. In an architecture
    step, those of Gᵀ X are not needed. G W is not needed where X has no gradient: of the state that a window starts
    with, and in an architecture step of what comes before the first edge.
    """
    width, rows = sizes.width, sizes.streams * sizes.steps
    once = [(rows, width, 2 * width), (rows, width, sizes.words)]  # the input's and the decoder's: rows, in, out
    outs = [2 * width, *(2 * (sizes.nodes - i) * width for i in range(sizes.nodes))]  # the state's and the nodes'
    each = [(sizes.streams, width, out) for out in outs]
    matrices = {
        shape: [torch.randn(*size, dtype=dtype, device=device()) for size in _sizes(*shape)] for shape in once + each
    }

    def compute(shape: tuple[int, int, int], *, inputs: bool, weights: bool) -> None:
        x, w, g, y, dx, dw = matrices[shape]
        torch.mm(x, w.t(), out=y)
        if inputs:
            torch.mm(g, w, out=dx)
        if weights:
            torch.mm(g.t(), x, out=dw)

    while True:
        for weights in (True, False):
            compute(once[0], inputs=weights, weights=weights)
            compute(once[1], inputs=True, weights=weights)
            for step in range(sizes.steps):
                needed = [step > 0, weights or step > 0]  # of the state and of the first node
                for shape, inputs in zip_longest(each, needed, fillvalue=True):
                    compute(shape, inputs=inputs, weights=weights)
            yield


def _sizes(rows: int, width: int, out: int) -> list[tuple[int, int]]:
    """The sizes of a product's inputs, its weights, its gradient, and its three results."""
    return [(rows, width), (out, width), (rows, out), (rows, out), (rows, width), (out, width)]


def make(precision: str, sizes: Sizes, steps: int) -> Contest:
    """AdvantageNAS on the recurrent network, beside a loop and its matrix products."""
    torch.manual_seed(0)
    network = RecurrentLM(
        words=sizes.words,
        embedding_size=sizes.width,
        hidden_size=sizes.width,
        nodes=sizes.nodes,
        dropout=sizes.dropout,
    )
    tokens = torch.randint(sizes.words, (2 * steps * sizes.streams * sizes.steps,))
    windows = Windows(tokens, eos=0, batch_size=sizes.streams, bptt=sizes.steps, text="train")

    def loop(dtype: torch.dtype | None) -> BareSearch:
        return BareSearch(
            network,
            loss=CarriedLoss(),
            weights=WEIGHTS,
            architecture=ARCHITECTURE,
            weight_clip=WEIGHT_CLIP,
            architecture_clip=ARCHITECTURE_CLIP,
            autocast=partial(torch.autocast, device().type, dtype or torch.bfloat16, enabled=dtype is not None),
        )

    half = None if precision == "32-true" else torch.bfloat16
    bare = loop(half)
    others = {BARE: bare.alternate(windows)}
    if half is not None:
        others[BARE_32] = loop(None).alternate(windows)
    others[PRODUCTS] = products(sizes, half or torch.float32)
    search = AdvantageNAS(
        network,
        objective=LanguageModelling(),
        weight_optimizer=WEIGHTS,
        architecture_optimizer=ARCHITECTURE,
        weight_clip=WEIGHT_CLIP,
        architecture_clip=ARCHITECTURE_CLIP,
        zero_op="none",  # as in the loop
    )
    return Contest(
        search.to(device()),
        SearchLoader({"weights": windows}, alternate=True),
        others,
        bare=bare,
        kinds=("weight step", "architecture step"),
        trainer={"precision": precision},
    )


def steps(case: str, precision: str, *, small: bool) -> list[Row]:
    """Measure both steps."""
    sizes, turns = (SMALL, 2) if small else (FULL, 10)
    return compare(case, partial(make, precision, sizes), turns=turns)

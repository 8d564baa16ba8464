"""A small transformer whose layers are searched: a character-level language model of the Penn Treebank.

    python examples/transformer.py              # downloads the three text files, once
    python examples/transformer.py --data DIR   # reads ptb.train.txt, ptb.valid.txt, ptb.test.txt

The model is a plain LightningModule. MixedOps let each layer choose the part that mixes its tokens, the width of its
feed-forward part and the activation in it. Half of the training text is for the weights, and half for the architecture.
The network that AdvantageNAS finds is then trained from scratch. It is compared with a hand-made transformer (4 heads,
4 x GELU) of as many parameters, and with a random network of the search space. All take the same steps on the same
batches. The steps are few and the windows are short, which favours networks that learn fast from the nearest
characters. The program takes some ten minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import AdvantageNAS, Genotype, MixedOp, search_loaders
from advnas_lightning.cost import count_macs, count_parameters
from advnas_lightning.tasks.ptb import PennTreebank

CONTEXT, BATCH_SIZE, LEARNING_RATE = 64, 32, 3e-3
EPOCHS, WARMUP_EPOCHS = 10, 5  # the epochs of the search, and those of them before θ moves
PARTS = ("mixer", "feed-forward", "activation")  # the searched parts of a layer


class Characters(LightningDataModule):
    """The three texts in windows of ``CONTEXT + 1`` characters, each of which overlaps the next by one."""

    def __init__(self, root: str | None, seed: int) -> None:
        super().__init__()
        self.files = PennTreebank(root=root)
        self.seed = seed
        self.vocabulary = ""
        self.texts: dict[str, Tensor] = {}

    def prepare_data(self) -> None:
        """Download what is missing, unless a folder was given."""
        self.files.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read the texts. The vocabulary is the 50 characters that occur in them."""
        texts = {name: (self.files.folder / f"ptb.{name}.txt").read_text() for name in ("train", "valid", "test")}
        self.vocabulary = "".join(sorted(set("".join(texts.values()))))
        index = {character: number for number, character in enumerate(self.vocabulary)}
        self.texts = {name: torch.tensor([index[character] for character in text]) for name, text in texts.items()}

    def _loader(self, name: str, **options: Any) -> DataLoader[Any]:
        windows = self.texts[name].unfold(0, CONTEXT + 1, CONTEXT)  # [windows, CONTEXT + 1]
        return DataLoader(TensorDataset(windows), BATCH_SIZE, **options)

    def train_dataloader(self) -> DataLoader[Any]:
        """The training windows. Their order depends only on the seed, so all networks see the same batches."""
        return self._loader("train", shuffle=True, generator=torch.Generator().manual_seed(self.seed))

    def val_dataloader(self) -> DataLoader[Any]:
        """The windows of the validation text in order."""
        return self._loader("valid")

    def test_dataloader(self) -> DataLoader[Any]:
        """The windows of the test text in order."""
        return self._loader("test")


class Attention(nn.Module):
    """Causal self-attention over the tokens of a window."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[B, T, width]`` of features ``[B, T, width]``, as in all parts of a layer."""
        parts = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [3, B, heads, T, …]
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)  # [B, heads, T, …]
        return self.merge(mixed.transpose(1, 2).flatten(2))


class CausalConvolution(nn.Conv1d):
    """A convolution over time that sees no later token."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a sequence that has zeros before its start."""
        reach = (self.kernel_size[0] - 1) * self.dilation[0]
        return super().forward(F.pad(x.transpose(1, 2), (reach, 0))).transpose(1, 2)


class Skip(nn.Module):
    """Adds nothing to the residual stream. ``is_zero_op`` tells the search that this cuts the edge."""

    is_zero_op = True

    def forward(self, x: Tensor) -> Tensor:
        """Zeros in the shape of the input."""
        return torch.zeros_like(x)


class SquaredReLU(nn.Module):
    """The activation that the search for Primer found (So et al., 2021)."""

    def forward(self, x: Tensor) -> Tensor:
        """The square max(x, 0)² of each value."""
        return x.relu().square()


class FeedForward(nn.Module):
    """Two linear maps. The activation between them is an input, because a choice cannot contain another choice."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, activation: nn.Module) -> Tensor:
        """Widen each token's features, apply the activation, and narrow them again."""
        return self.down(activation(self.up(x)))


class Layer(nn.Module):
    """A transformer's layer, with normalisation first. Each part is a module or a choice among modules."""

    def __init__(self, width: int, mixer: nn.Module, feed_forward: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.mixer_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixer, self.feed_forward, self.activation = mixer, feed_forward, activation

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens, and then the channels."""
        x = x + self.mixer(self.mixer_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x), self.activation)


class LanguageModel(LightningModule):
    """Predicts each next character. It has no code for the search."""

    def __init__(self, layers: Iterable[Layer], *, vocabulary: int, width: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.embed = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(CONTEXT, width))
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocabulary))

    def forward(self, characters: Tensor) -> Tensor:
        """Logits ``[B, T, vocabulary]`` of the character that follows each of the characters ``[B, T]``."""
        return self.head(self.layers(self.embed(characters) + self.positions[: characters.shape[1]]))

    def _loss(self, batch: Sequence[Tensor], stage: str) -> Tensor:
        (windows,) = batch  # [B, T + 1]
        loss = F.cross_entropy(self(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        self.log(f"{stage}_bits", loss / math.log(2), prog_bar=True)
        return loss

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """The mean cross-entropy in nats. The log has it in bits."""
        return self._loss(batch, "train")

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Log the bits per character."""
        self._loss(batch, "valid")

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Log the bits per character."""
        self._loss(batch, "test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, whose learning rate rises in the first 100 steps and falls to 0 until the last one."""
        optimizer = AdamW(self.parameters(), lr=LEARNING_RATE)
        schedule = LambdaLR(optimizer, lambda step: min((step + 1) / 100, 1) * (1 - step / self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def searchable(vocabulary: int, *, layers: int, width: int, steps: int) -> LanguageModel:
    """The network of the search, in which every layer makes three choices of its own."""

    def layer(number: int) -> Layer:
        mixers: dict[str, nn.Module] = {f"attention_{heads}": Attention(width, heads) for heads in (1, 2, 4)}
        mixers["depthwise_8"] = CausalConvolution(width, width, 8, groups=width)
        mixers["dilated_4"] = CausalConvolution(width, width, 4, dilation=2)
        mixers["skip"] = Skip()
        feed_forwards = {f"{times}x": FeedForward(width, times * width) for times in (1, 2, 4)}
        activations = {"relu": nn.ReLU(), "gelu": nn.GELU(), "silu": nn.SiLU(), "squared_relu": SquaredReLU()}
        candidates: Any = zip(PARTS, (mixers, feed_forwards, activations), strict=True)
        return Layer(width, *(MixedOp(f"{part} {number}", modules) for part, modules in candidates))

    numbers = range(1, layers + 1)
    return LanguageModel(map(layer, numbers), vocabulary=vocabulary, width=width, steps=steps)


def hand_made(vocabulary: int, *, layers: int, parameters: int, steps: int) -> LanguageModel:
    """The usual network: 4 heads, 4 x GELU, and the largest width that so many parameters allow.

    The remaining parameters make the feed-forward parts a little wider.
    """

    def build(width: int, hidden: int) -> LanguageModel:
        parts = [Layer(width, Attention(width, 4), FeedForward(width, hidden), nn.GELU()) for _ in range(layers)]
        return LanguageModel(parts, vocabulary=vocabulary, width=width, steps=steps)

    width = 4
    while count_parameters(build(width + 4, 4 * (width + 4))) <= parameters:
        width += 4
    left = parameters - count_parameters(build(width, 4 * width))
    return build(width, max(4 * width + left // (layers * (2 * width + 1)), 1))


def trainer(**options: Any) -> Trainer:
    """A trainer that leaves no files."""
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False, **options)


def train(model: LightningModule, data: LightningDataModule, **options: Any) -> float:
    """Fit a model, and return the seconds that this took."""
    start = time.perf_counter()
    trainer(limit_val_batches=20, **options).fit(model, datamodule=data)
    return time.perf_counter() - start


def macs_per_character(model: nn.Module) -> int:
    """The multiply-accumulates of a window, divided by its number of characters."""
    return count_macs(model, torch.zeros(1, CONTEXT, dtype=torch.long)) // CONTEXT


def describe(model: LightningModule, data: Characters) -> list[str]:
    """The cells of a row of the table: a network's costs, and its bits and perplexity per character on both texts."""
    (valid,), (test,) = (run(model, data, verbose=False) for run in (trainer().validate, trainer().test))
    costs = count_parameters(model), macs_per_character(model)
    scores = [score for bits in (valid["valid_bits"], test["test_bits"]) for score in (bits, 2**bits)]
    return [*(f"{cost:,}" for cost in costs), *(f"{score:.3f}" for score in scores)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Search, train the found network and those that it is compared with, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="DIR", help="a folder with the text files; without it they are downloaded")
    parser.add_argument("--search-steps", type=int, default=1600, help="the number of weight steps of the search")
    parser.add_argument("--train-steps", type=int, default=1500, help="the number of steps of each compared network")
    parser.add_argument("--width", type=int, default=64, help="the width of the searched network, a multiple of 4")
    parser.add_argument("--layers", type=int, default=4)
    # A branch ends in a linear map and so learns its own scale. At the best scale the loss has no slope in it, so the
    # first-order credit of Taylor is near 0, whatever the branch does. The exact one costs a forward pass per edge.
    parser.add_argument("--advantage", choices=("exact", "taylor"), default="exact", help="the credit of an edge")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="the number of threads; by default torch chooses it")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # the texts are in memory
    seed_everything(options.seed, verbose=False)
    data = Characters(options.data, options.seed)
    data.prepare_data()
    data.setup()
    shape = {"vocabulary": len(data.vocabulary), "layers": options.layers}

    batches = math.ceil(options.search_steps / EPOCHS)
    search = AdvantageNAS(
        searchable(**shape, width=options.width, steps=EPOCHS * batches),
        architecture_optimizer=partial(Adam, lr=0.02),
        warmup_epochs=WARMUP_EPOCHS,  # each step trains only one candidate of an edge
        advantage=options.advantage,
        seed=options.seed,
    )
    halves = search_loaders(data, architecture=0.5, seed=options.seed)
    seconds = train(search, halves, max_epochs=EPOCHS, limit_train_batches=batches)

    found, draw = search.genotype(), random.Random(options.seed).choice
    space = zip(search.space.edges, search.space.candidates, strict=True)
    fresh = searchable(**shape, width=options.width, steps=options.train_steps)
    networks: dict[str, Any] = {"found": found.apply(fresh)}
    parameters = count_parameters(networks["found"])
    networks["hand-made"] = hand_made(**shape, parameters=parameters, steps=options.train_steps)
    networks["random"] = Genotype({edge: draw(names) for edge, names in space}).apply(fresh)

    scores = (f"{text} {score}" for text in ("valid", "test") for score in ("bits", "perplexity"))
    results = Table("architecture", "parameters", "MACs", *scores, "seconds")
    results.caption = "multiply-accumulates (MACs), bits and perplexity are those of a character"
    results.add_row("found, not retrained", *describe(search.derive(), data), f"{seconds:.0f}")
    for name, network in networks.items():
        seconds = train(network, data, max_epochs=-1, max_steps=options.train_steps)
        results.add_row(name, *describe(network, data), f"{seconds:.0f}")
    probability = dict(zip(found, search.probs.amax(-1).tolist(), strict=True))
    choices = Table("layer", *PARTS, title="found (with its probability)")
    for number in range(1, options.layers + 1):
        edges = [f"{part} {number}" for part in PARTS]
        choices.add_row(str(number), *(f"{found[edge]} ({probability[edge]:.2f})" for edge in edges))
    # Without a terminal, rich would assume a width that is smaller than the table's.
    Console(width=None if sys.stdout.isatty() else 120).print(choices, results)


if __name__ == "__main__":
    main()

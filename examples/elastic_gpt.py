"""Searches the sizes of a small GPT: heads and feed-forward width of each layer, and the number of layers.

    python examples/elastic_gpt.py --text FILE

One supernet is trained for all sizes together, and `rank` takes the best network within each of three budgets from it.
Each of them is then trained from scratch, and so are what it is compared with: a GPT of the same number of parameters
that is uniformly scaled, and random networks of the search space that use at least nine tenths of the budget. All take
the same steps on the same batches. The last tenth of the text is the test, and the tenth before it ranks.

With `--searches`, three strategies search the same supernet within each budget, too. Its weights stay as they are, and
the three searches of a strategy take as long as the ranking together. With `--estimates`, the gradients of θ that
strategies estimate on this supernet are compared with the exact one.
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, seed_everything
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from size_comparison import Comparison, fit, renewed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import (
    AdvantageNAS,
    ArchitectureCost,
    CounterfactualNAS,
    Depth,
    Distillation,
    Genotype,
    RandomSearch,
    SearchStrategy,
    elastic,
)
from advnas_lightning.cost import count_parameters
from advnas_lightning.diagnose import diagnose_fit, show
from advnas_lightning.ranking import Evolution

HEAD, CONTEXT = 8, 64  # the features of a head, and the characters that a network sees
EPOCHS = 10  # of the search
QUICK = dict(layers=3, batch_size=2, batches=2, search_steps=10, train_steps=2, top=3, generations=1, random=1, draws=3)

# Whether the losses alone choose in the end, or also the probabilities that a search learns in its last two epochs.
STRATEGIES: dict[str, Callable[..., SearchStrategy]] = {
    "random": RandomSearch,
    "advantage": partial(AdvantageNAS, architecture_optimizer=partial(Adam, lr=0.02), warmup_epochs=8),
}
# How the shared weights are trained, and how many times the steps. A step of a sandwich runs four networks.
SUPERNETS: dict[str, tuple[int, dict[str, Any]]] = {
    "sandwich, distilled": (1, {"sampling": "sandwich", "teacher": Distillation("widest", dim=-1)}),
    "sandwich": (1, {"sampling": "sandwich"}),
    "one draw": (4, {"sampling": "one"}),
}
# What searches a supernet whose weights stay as they are.
SEARCHES: dict[str, Callable[..., SearchStrategy]] = {
    "advantage": AdvantageNAS,
    "counterfactual": CounterfactualNAS,
    "exact": partial(CounterfactualNAS, advantage="exact"),
}


class Block(nn.Module):
    """A layer of a GPT."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys, self.values = (nn.Linear(width, heads * HEAD) for _ in range(3))
        self.out = nn.Linear(heads * HEAD, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream ``[B, T, width]`` after causal attention and a feed-forward part."""
        y = self.norm(x)
        parts = (each(y).unflatten(-1, (-1, HEAD)).transpose(1, 2) for each in (self.queries, self.keys, self.values))
        y = F.scaled_dot_product_attention(*parts, is_causal=True)  # [B, heads, T, HEAD]
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(LightningModule):
    """Predicts each next character. It has no code for the search."""

    def __init__(self, vocabulary: int, *, width: int, layers: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.embed, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, width // HEAD, 4 * width) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits ``[B, T, vocabulary]`` of the character that follows each of the characters ``[B, T]``."""
        x = self.embed(characters) + self.positions.weight[: characters.shape[1]]
        return self.head(self.norm(self.blocks(x)))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int = 0) -> Tensor:
        """The mean cross-entropy in nats."""
        (windows,) = batch  # [B, T + 1]
        return F.cross_entropy(self(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, whose learning rate rises in the first 50 steps and falls to 0 until the last one."""
        optimizer = AdamW(self.parameters(), lr=3e-3)
        schedule = LambdaLR(optimizer, lambda step: min((step + 1) / 50, 1) * (1 - step / self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def make_elastic(gpt: GPT) -> GPT:
    """Let each layer choose its heads and its feed-forward width, and the network its number of layers."""
    for n, block in enumerate(gpt.blocks, start=1):
        heads = {str(h): h * HEAD for h in quarters(block.out.in_features // HEAD)}  # by name, the features
        for name in ("queries", "keys", "values"):
            setattr(block, name, elastic(getattr(block, name), out_features=heads, name=f"heads {n}"))
        block.out = elastic(block.out, in_features=heads, name=f"heads {n}")
        hidden = quarters(block.up.out_features)
        block.up = elastic(block.up, out_features=hidden, name=f"hidden {n}")
        block.down = elastic(block.down, in_features=hidden, name=f"hidden {n}")
    layers = len(gpt.blocks)
    gpt.blocks = Depth(gpt.blocks, range(layers // 2, layers + 1), name="layers")
    return gpt


def quarters(size: int) -> list[int]:
    """A quarter of a size, a half, three quarters, and all of it."""
    return [size * k // 4 for k in (1, 2, 3, 4)]


def read(path: Path) -> tuple[int, list[TensorDataset]]:
    """The number of different characters in a text, and the windows to train on, to choose by and to test on."""
    text = path.read_text()
    index = {character: number for number, character in enumerate(sorted(set(text)))}
    windows = torch.tensor([index[character] for character in text]).unfold(0, CONTEXT + 1, CONTEXT)
    tenth = len(windows) // 10
    return len(index), list(map(TensorDataset, windows.split([len(windows) - 2 * tenth, tenth, tenth])))


def batches_of(windows: TensorDataset, size: int, seed: int) -> DataLoader[Any]:
    """Batches in an order that depends only on the seed, so that all networks see the same ones."""
    return DataLoader(windows, size, shuffle=True, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def bits(network: Any, batches: Iterable[Any]) -> float:
    """The mean cross-entropy of a character in bits."""
    network.eval()
    return float(torch.stack([network.training_step(batch) for batch in batches]).mean()) / math.log(2)


def search_sizes(name: str, supernet: GPT, budget: float, data: Any, seconds: float, seed: int) -> Genotype:
    """The most probable network within a budget of parameters, after a search that changes none of the weights."""
    search = SEARCHES[name](
        supernet.requires_grad_(False),
        architecture_optimizer=partial(Adam, lr=0.05),
        cost=ArchitectureCost("params", budget=budget),
        seed=seed,
    )
    fit(search, {"weights": data, "architecture": data}, max_epochs=-1, max_time=timedelta(seconds=seconds))
    return search.genotype(search.selected)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a supernet, take the best network within each budget, train it and its rivals, and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="a text file of a megabyte or more")
    parser.add_argument("--output", type=Path, default=Path("elastic_gpt"), help="the folder of the results")
    parser.add_argument("--strategy", choices=STRATEGIES, default="random", help="how networks are drawn and chosen")
    parser.add_argument("--search-steps", type=int, default=1600, help="the weight steps of the supernet")
    parser.add_argument("--train-steps", type=int, default=400, help="the steps of each network that is compared")
    parser.add_argument("--width", type=int, default=64, help="the width of the residual stream, a multiple of 64")
    parser.add_argument("--layers", type=int, default=6, help="the layers of the widest network")
    parser.add_argument("--batch-size", type=int, default=16, help="the windows of a batch")
    parser.add_argument("--batches", type=int, default=16, help="the batches of an evaluation")
    parser.add_argument("--top", type=int, default=30, help="the most probable networks that the ranking scores")
    parser.add_argument("--generations", type=int, default=5, help="the generations of the ranking's evolution")
    parser.add_argument("--random", type=int, default=4, help="the random networks of each budget")
    parser.add_argument("--searches", action="store_true", help="search the supernet by strategies, too")
    parser.add_argument("--estimates", action="store_true", help="compare estimates of the gradient of θ on it")
    parser.add_argument("--draws", type=int, default=100, help="the estimates of each strategy")
    parser.add_argument("--supernets", action="store_true", help="compare with supernets that are trained otherwise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="let the program run through in some seconds")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(QUICK)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # the text is in memory
    vocabulary, texts = read(options.text)
    train, valid, test = (partial(batches_of, text, options.batch_size, options.seed) for text in texts)
    gpt = partial(GPT, vocabulary, layers=options.layers, steps=options.train_steps)
    comparison = Comparison("parameters", "bits per character of the test")

    def train_supernet(name: str) -> SearchStrategy:
        times, how = SUPERNETS[name]
        steps = times * options.search_steps
        seed_everything(options.seed, verbose=False)
        strategy = STRATEGIES[options.strategy]
        search = strategy(make_elastic(gpt(width=options.width, steps=steps)), seed=options.seed, **how)
        data = {"weights": train(), "architecture": valid()}
        with comparison.timed(f"supernet: {name}"):
            fit(search, data, max_epochs=EPOCHS, limit_train_batches=steps // EPOCHS)
        return search

    usual, *others = SUPERNETS
    search = train_supernet(usual)
    scaled = {count_parameters(each): each for each in (gpt(width=options.width * k // 8) for k in (4, 5, 6))}
    with comparison.timed("ranking"):
        ranking = search.rank(
            valid(),
            batches=options.batches,
            top=options.top,
            sample=options.top,
            evolution=Evolution(options.generations, population=20),
            costs=["params"],
            budgets=[{"params": budget} for budget in scaled],
            seed=options.seed,
        )
    if options.estimates:
        diagnosed = AdvantageNAS(copy.deepcopy(search.model), architecture_optimizer=Adam, seed=options.seed)
        data = {"weights": valid(), "architecture": valid()}
        show(*diagnose_fit(diagnosed, data, batches=2, draws=options.draws, exact_draws=2 * options.draws))
    found = {"found": {budget: ranking.within({"params": budget}).best.genotype for budget in scaled}}
    seconds = comparison.seconds["ranking"] / len(scaled)
    for name in SEARCHES if options.searches else ():
        supernet = copy.deepcopy(search.model)
        with comparison.timed(f"search: {name}"):
            found[name] = {
                budget: search_sizes(name, supernet, budget, valid(), seconds, options.seed) for budget in scaled
            }
    comparison.train_all(
        search,
        found,
        {budget: renewed(network, options.seed) for budget, network in scaled.items()},
        make=lambda genotype: renewed(genotype.apply(make_elastic(gpt(width=options.width))), options.seed),
        count=count_parameters,
        train=lambda network: fit(network, train(), max_epochs=-1, max_steps=options.train_steps),
        quality=lambda network: bits(network, islice(test(), options.batches)),
        number=options.random,
        seed=options.seed,
    )
    for name in [usual, *(others if options.supernets else [])]:
        supernet = search if name == usual else train_supernet(name)
        shared = (supernet.derive(genotype=each.genotype) for each in comparison.of("random"))
        comparison.compare_supernet(name, [bits(network, islice(valid(), options.batches)) for network in shared])
    comparison.report(options.output, vars(options))


if __name__ == "__main__":
    main()

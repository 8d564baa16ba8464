"""What the examples that search sizes share: they train networks equally, and compare them at equal cost."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from rich.console import Console
from rich.table import Table
from torch import nn
from torchmetrics.functional import spearman_corrcoef

from advnas_lightning import Genotype, SearchSpace, SearchStrategy

LEAST = 0.9  # the share of a budget that a random network uses at least
TRIES = 1000
STYLES = {
    "found": ("*", "#D55E00", 110),
    "advantage": ("^", "#009E73", 36),
    "counterfactual": ("v", "#CC79A7", 36),
    "exact": ("<", "#E69F00", 36),
    "uniform": ("s", "#0077BB", 36),
    "shallow": ("P", "#009988", 36),
    "one width": ("D", "#7A5195", 36),
    "random": ("o", "#8FA3B8", 16),
}


def fit(model: LightningModule, data: Any, **options: Any) -> None:
    """Fit a search or a network, without files."""
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    quiet["enable_progress_bar"] = sys.stdout.isatty()
    Trainer(accelerator="cpu", **quiet, **options).fit(model, data)


def renewed(network: Any, seed: int) -> Any:
    """The network with new weights, as PyTorch draws them for its sizes. Those of a wider one have another scale."""

    def reset(module: nn.Module) -> None:
        own: Any = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        if own is not None:
            own()

    torch.manual_seed(seed)
    return network.apply(reset)  # children first, since an attention sets some weights of the layer in it once more


def random_genotypes(
    space: SearchSpace, cost: Callable[[Genotype], float], most: float, number: int, seed: int
) -> list[Genotype]:
    """Random architectures of a space that cost between nine tenths and all of a budget."""
    draw, found = random.Random(seed), []
    for _ in range(TRIES):
        if len(found) == number:
            return found
        choices = zip(space.edges, space.candidates, strict=True)
        genotype = Genotype({edge: draw.choice(names) for edge, names in choices})
        if LEAST * most <= cost(genotype) <= most:
            found.append(genotype)
    raise ValueError(f"of {TRIES} random networks fewer than {number} cost from {LEAST * most:,.0f} to {most:,.0f}")


@dataclass
class Trained:
    """A network after its own training.

    Attributes:
        kind: ``"found"`` by the ranking, the name of a strategy that has found it, ``"random"``, or what else it is.
        budget: What it may cost.
        cost: What it costs.
        quality: What it reaches on the test.
        genotype: Its sizes; ``None`` if it is not of the search space.
        more: What else it reaches, by name.
    """

    kind: str
    budget: float
    cost: float
    quality: float
    genotype: Mapping[str, str] | None = None
    more: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Comparison:
    """Networks of several budgets after equal training.

    Attributes:
        unit: What a cost is counted in.
        measure: What the quality is, in words.
        networks: The networks.
        agreements: By supernet: the rank correlation of its scores of the random networks and of their qualities.
        seconds: How long each part took.
    """

    unit: str
    measure: str
    networks: list[Trained] = field(default_factory=list)
    agreements: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """A context whose seconds count for a part."""
        started = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started

    def train_all(
        self,
        search: SearchStrategy,
        found: Mapping[str, Mapping[float, Genotype]],
        uniform: Mapping[float, Any],
        *,
        make: Callable[[Genotype], Any],
        count: Callable[[nn.Module], float],
        train: Callable[[Any], None],
        quality: Callable[[Any], float | Mapping[str, float]],
        number: int,
        seed: int,
    ) -> None:
        """Train the networks of each budget and random ones, and note their quality.

        Args:
            search: The search, whose space the random networks are from.
            found: The architectures by kind and budget.
            uniform: The uniformly scaled network by budget; none if it is among the architectures.
            make: Makes the network of an architecture, which is then trained.
            count: Gives the cost of a network.
            train: Trains a network.
            quality: What a network reaches on the test. Of several values by name, the first one is the quality.
            number: How many random networks there are for a budget.
            seed: The seed of their sizes.
        """
        for budget in found["found"]:
            drawn = random_genotypes(search.space, lambda each: count(each.apply(search.model)), budget, number, seed)
            chosen = [(kind, genotypes[budget]) for kind, genotypes in found.items()]
            scaled = [("uniform", None)] if uniform else []
            for kind, genotype in [*chosen, *(("random", each) for each in drawn), *scaled]:
                network = uniform[budget] if genotype is None else make(genotype)
                with self.timed("own trainings"):
                    train(network)
                reached = quality(network)
                values = reached if isinstance(reached, Mapping) else {self.measure: reached}
                (_, value), *more = values.items()
                sizes = None if genotype is None else dict(genotype)
                self.networks.append(Trained(kind, budget, count(network), value, sizes, dict(more)))
                told = "".join(f", {name} {each:.3f}" for name, each in more)
                print(f"{kind}: {count(network):,} {self.unit}, {value:.3f}{told}", flush=True)

    def compare_supernet(self, name: str, scores: Sequence[float]) -> None:
        """Note how well a supernet's scores of the random networks order them, by Spearman's rank correlation."""
        qualities = [each.quality for each in self.of("random")]
        self.agreements[name] = float(spearman_corrcoef(torch.tensor(scores), torch.tensor(qualities)))

    def of(self, kind: str) -> list[Trained]:
        """The networks of a kind, the small ones first."""
        return sorted((each for each in self.networks if each.kind == kind), key=lambda each: each.cost)

    def kinds(self) -> list[str]:
        """The kinds that there are."""
        return [kind for kind in STYLES if self.of(kind)]

    def table(self) -> Table:
        """A row for each budget, with the mean of the random networks."""
        table = Table(self.unit, *self.kinds(), title=self.measure)
        for budget in sorted({each.budget for each in self.networks}):
            cells = []
            for kind in self.kinds():
                reached = [each.quality for each in self.of(kind) if each.budget == budget]
                cells.append(f"{mean(reached):.3f}" + f" (mean of {len(reached)})" * (len(reached) > 1))
            table.add_row(f"{budget:,.0f}", *cells)
        return table

    def report(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Print the table, write all numbers into ``sizes.json``, and draw the qualities by the costs."""
        Console(width=None if sys.stdout.isatty() else 120).print(self.table())
        for name, value in self.agreements.items():
            count = len(self.of("random"))
            print(f"{name}: the supernet orders the {count} random networks as their own trainings do by {value:.2f}")
        folder.mkdir(parents=True, exist_ok=True)
        content = {"settings": {name: str(value) for name, value in settings.items()}, **asdict(self)}
        (folder / "sizes.json").write_text(json.dumps(content, indent=2) + "\n")
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot(xlabel=self.unit, ylabel=self.measure)
        for kind in self.kinds():
            marker, colour, size = STYLES[kind]
            x, y = ([getattr(each, name) for each in self.of(kind)] for name in ("cost", "quality"))
            axes.scatter(x, y, s=size, c=colour, marker=marker, label=kind)
            if kind != "random":
                axes.plot(x, y, color=colour, linewidth=1)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 8M in the place of 8000000
        for ending in ("png", "svg"):
            figure.savefig(folder / f"sizes.{ending}", dpi=160)

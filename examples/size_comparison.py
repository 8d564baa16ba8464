"""What the examples that search sizes share: they train networks from scratch, and compare them at equal cost."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn
from torchmetrics.functional import spearman_corrcoef

from advnas_lightning import Genotype, SearchStrategy
from advnas_lightning.cost import count_parameters

LEAST = 0.9  # the share of a budget that a random network uses at least
TRIES = 1000
STYLES = {"found": ("*", "#D55E00", 110), "uniform": ("s", "#0077BB", 36), "random": ("o", "#8FA3B8", 16)}


def fit(model: LightningModule, data: Any, **options: Any) -> None:
    """Fit a search or a network, without files."""
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    quiet["enable_progress_bar"] = sys.stdout.isatty()
    Trainer(accelerator="cpu", **quiet, **options).fit(model, data)


def renewed(network: Any, seed: int) -> Any:
    """The network with new weights, as PyTorch draws them for its sizes. Those of a wider one have another scale."""
    torch.manual_seed(seed)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return network


def random_genotypes(search: SearchStrategy, budget: float, number: int, seed: int) -> list[Genotype]:
    """Random architectures of a search space, with between nine tenths and all of a budget of parameters."""
    draw, found = random.Random(seed), []
    for _ in range(TRIES):
        if len(found) == number:
            return found
        choices = zip(search.space.edges, search.space.candidates, strict=True)
        genotype = Genotype({edge: draw.choice(names) for edge, names in choices})
        if LEAST * budget <= count_parameters(genotype.apply(search.model)) <= budget:
            found.append(genotype)
    raise ValueError(f"of {TRIES} random networks fewer than {number} have {LEAST * budget:.0f} to {budget} parameters")


@dataclass
class Trained:
    """A network after its own training.

    Attributes:
        kind: ``"found"``, ``"uniform"`` or ``"random"``.
        budget: The number of parameters that it may have.
        parameters: The number that it has.
        quality: What it reaches on the test.
        genotype: Its sizes; ``None`` if it is not of the search space.
    """

    kind: str
    budget: float
    parameters: int
    quality: float
    genotype: Mapping[str, str] | None = None


@dataclass
class Comparison:
    """Networks of several budgets after equal training.

    Attributes:
        measure: What the quality is, in words.
        networks: The networks.
        agreements: By supernet: the rank correlation of its scores of the random networks and of their qualities.
        seconds: How long each part took.
    """

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

    def add(self, kind: str, budget: float, network: nn.Module, quality: float, genotype: Genotype | None) -> None:
        """Note a network after its own training, and print it."""
        sizes = None if genotype is None else dict(genotype)
        self.networks.append(Trained(kind, budget, count_parameters(network), quality, sizes))
        print(f"{kind} network of {count_parameters(network):,} parameters: {quality:.3f}", flush=True)

    def compare_supernet(self, name: str, scores: Sequence[float]) -> None:
        """Note how well a supernet's scores of the random networks order them, by Spearman's rank correlation."""
        qualities = [each.quality for each in self.of("random")]
        self.agreements[name] = float(spearman_corrcoef(torch.tensor(scores), torch.tensor(qualities)))

    def of(self, kind: str) -> list[Trained]:
        """The networks of a kind, the small ones first."""
        return sorted((each for each in self.networks if each.kind == kind), key=lambda each: each.parameters)

    def table(self) -> Table:
        """A row for each budget, with the mean of the random networks."""
        table = Table("parameters", *STYLES, title=self.measure)
        for budget in sorted({each.budget for each in self.networks}):
            cells = []
            for kind in STYLES:
                reached = [each.quality for each in self.of(kind) if each.budget == budget]
                cells.append(f"{mean(reached):.3f}" + f" (mean of {len(reached)})" * (len(reached) > 1))
            table.add_row(f"{budget:,.0f}", *cells)
        return table

    def report(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Print the table, write all numbers into ``sizes.json``, and draw the qualities by the parameters."""
        Console(width=None if sys.stdout.isatty() else 120).print(self.table())
        for name, value in self.agreements.items():
            count = len(self.of("random"))
            print(f"{name}: the supernet orders the {count} random networks as their own trainings do by {value:.2f}")
        folder.mkdir(parents=True, exist_ok=True)
        content = {"settings": {name: str(value) for name, value in settings.items()}, **asdict(self)}
        (folder / "sizes.json").write_text(json.dumps(content, indent=2) + "\n")
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot(xlabel="parameters", ylabel=self.measure)
        for kind, (marker, colour, size) in STYLES.items():
            x, y = ([getattr(each, name) for each in self.of(kind)] for name in ("parameters", "quality"))
            axes.scatter(x, y, s=size, c=colour, marker=marker, label=kind)
            if kind != "random":
                axes.plot(x, y, color=colour, linewidth=1)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        for ending in ("png", "svg"):
            figure.savefig(folder / f"sizes.{ending}", dpi=160)

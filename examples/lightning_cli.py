"""A search whose options all come from YAML and the command line, through Lightning's own CLI.

    pip install "jsonargparse[signatures]"
    python examples/lightning_cli.py fit --config examples/lightning_cli.yaml
    python examples/lightning_cli.py fit --config examples/lightning_cli.yaml --model.gamma 0.1 --model.depth 5
    python examples/lightning_cli.py fit --help

``Search`` has options of its own and all those of AdvantageNAS, which the CLI finds behind ``**options``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import AdvantageNAS, MixedOp


class Search(AdvantageNAS):
    """Searches the layers of a small network that classifies points.

    Args:
        width: The width of the layers.
        depth: The number of searched layers.
        options: The options of :class:`AdvantageNAS`.
    """

    def __init__(self, width: int = 16, depth: int = 3, **options: Any) -> None:
        layers: list[nn.Module] = [nn.Linear(2, width)]
        for number in range(1, depth + 1):
            relu = nn.Sequential(nn.Linear(width, width), nn.ReLU())
            tanh = nn.Sequential(nn.Linear(width, width), nn.Tanh())
            layers.append(MixedOp(f"layer {number}", {"relu": relu, "tanh": tanh, "skip": nn.Identity()}))
        # The CLI sees from the argument's name that the model is given, and does not ask for one.
        super().__init__(model=nn.Sequential(*layers, nn.Linear(width, 2)), **options)

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        """The cross-entropy of a batch of points ``[B, 2]`` with labels ``[B]``."""
        points, labels = batch
        return cross_entropy(self.model(points), labels)


class Rings(LightningDataModule):
    """Points, and whether they lie inside a ring. Each kind of step and the validation have equally many."""

    def __init__(self, size: int = 640, batch_size: int = 32) -> None:
        super().__init__()
        self.size, self.batch_size = size, batch_size

    def loader(self, seed: int, *, shuffle: bool) -> DataLoader[tuple[Tensor, ...]]:
        """A loader of points, which depend on the seed."""
        points = torch.randn(self.size, 2, generator=torch.Generator().manual_seed(seed))
        inside = ((points.norm(dim=1) > 0.7) & (points.norm(dim=1) < 1.5)).long()
        return DataLoader(TensorDataset(points, inside), self.batch_size, shuffle=shuffle)

    def train_dataloader(self) -> dict[str, DataLoader[tuple[Tensor, ...]]]:
        """The loaders of the two kinds of steps."""
        return {"weights": self.loader(1, shuffle=True), "architecture": self.loader(2, shuffle=True)}

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The validation points in order."""
        return self.loader(3, shuffle=False)


class CLI(LightningCLI):
    """Lightning's CLI, which here prints the found architecture at the end."""

    def after_fit(self) -> None:
        """Print the probabilities and the found architecture."""
        print(self.model.probabilities())
        print(self.model.genotype())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    # The strategy makes its own optimizers. Without a logger there is no folder for the configuration.
    CLI(Search, Rings, auto_configure_optimizers=False, save_config_callback=None, args=arguments)


if __name__ == "__main__":
    main()

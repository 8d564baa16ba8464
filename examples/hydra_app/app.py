"""A Hydra app of another project, which takes its search strategies from advnas-lightning's config group.

    python examples/hydra_app/app.py
    python examples/hydra_app/app.py strategy@search=gdas search.tau_max=5
    python examples/hydra_app/app.py -m strategy@search=advantage,parsec,darts seed=0,1

The model, the data and the other settings are the app's own. Hydra finds the config group in the installed package.
"""

from __future__ import annotations

from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import MixedOp, SearchStrategy
from advnas_lightning.objectives import Classification


class Net(nn.Module):
    """Classifies points. The activation of a hidden layer is searched, and a second hidden layer may be left out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        activations = {"linear": nn.Identity(), "relu": nn.ReLU(), "tanh": nn.Tanh()}
        layer = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.net = nn.Sequential(
            nn.Linear(2, width),
            MixedOp("activation", activations),
            MixedOp("second layer", {"layer": layer, "skip": nn.Identity()}),
            nn.Linear(width, 2),
        )

    def forward(self, points: Tensor) -> Tensor:
        """Logits ``[B, 2]`` of points ``[B, 2]``."""
        logits: Tensor = self.net(points)
        return logits


def rings(seed: int, *, shuffle: bool) -> DataLoader[tuple[Tensor, ...]]:
    """A loader of points, and of whether they lie inside a ring."""
    points = torch.randn(640, 2, generator=torch.Generator().manual_seed(seed))
    inside = ((points.norm(dim=1) > 0.7) & (points.norm(dim=1) < 1.5)).long()
    return DataLoader(TensorDataset(points, inside), batch_size=32, shuffle=shuffle)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Search as the configuration says, and write the genotype into the run's folder."""
    seed_everything(config.seed, verbose=False)
    search: SearchStrategy = instantiate(config.search, model=Net(config.width), objective=Classification(2))
    trainer = Trainer(accelerator="cpu", max_epochs=config.epochs, logger=False, enable_checkpointing=False)
    trainer.fit(search, {"weights": rings(1, shuffle=True), "architecture": rings(2, shuffle=True)})
    trainer.test(search, rings(3, shuffle=False))
    genotype = search.genotype(search.selected)
    (Path(HydraConfig.get().runtime.output_dir) / "genotype.json").write_text(genotype.to_json())
    print(f"{type(search).__name__} found {genotype.to_json()}")


if __name__ == "__main__":
    main()

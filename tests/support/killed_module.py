"""A user's own training script, to be killed: ``python -m tests.support.killed_module FOLDER``.

It has a module with a schedule over all steps, and beside LastCheckpoint Lightning's own callbacks.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from advnas_lightning import AdvantageNAS
from advnas_lightning.callbacks import LastCheckpoint
from advnas_lightning.callbacks.run_log import RunLog
from tests.support.small_search import CountingData, SmallNet

RESULT = "result.pt"


class Module(LightningModule):
    """As its author wrote it; nothing in it knows of a search."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.accuracy = SmallNet(), MulticlassAccuracy(3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.net(batch[0])
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.accuracy(logits, batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.05, momentum=0.9)
        schedule = OneCycleLR(optimizer, 0.1, total_steps=int(self.trainer.estimated_stepping_batches))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def main(folder: Path) -> None:
    """Train, or go on with it, and leave the result in a file."""
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    saving = LastCheckpoint(folder / "last", every_n_steps=7)
    best = ModelCheckpoint(folder / "best", monitor="val", save_top_k=3, enable_version_counter=False)
    stopping = EarlyStopping("val", patience=30)
    search = AdvantageNAS(Module(), architecture_optimizer=partial(Adam, lr=0.05), warmup_epochs=5)
    loaders = {
        "weights": DataLoader(CountingData(200, seed=1), batch_size=8, shuffle=True),
        "architecture": DataLoader(CountingData(72, seed=2), batch_size=8, shuffle=True),
    }
    trainer = Trainer(
        max_epochs=70,
        accelerator="cpu",
        logger=RunLog(folder),
        log_every_n_steps=5,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[saving, best, stopping, LearningRateMonitor()],
    )
    trainer.fit(search, loaders, DataLoader(CountingData(48, seed=3), batch_size=24), ckpt_path=saving.newest())
    result = {
        "search": search.state_dict(),
        "epochs": trainer.current_epoch,
        "best": {Path(path).name: float(score) for path, score in best.best_k_models.items()},
        "best_path": Path(best.best_model_path).name,
        "best_weights": torch.load(best.best_model_path)["state_dict"],
        "files": sorted(path.name for path in (folder / "best").iterdir()),
        "stopping": [stopping.wait_count, stopping.stopped_epoch, float(stopping.best_score)],
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
    }
    torch.save(result, folder / "result.part")
    (folder / "result.part").replace(folder / RESULT)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

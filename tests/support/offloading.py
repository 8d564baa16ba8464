"""What is where when candidates' weights wait in host memory, on a device in software and on a real one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import Adam

from advnas_lightning import SearchStrategy
from advnas_lightning.callbacks import LastCheckpoint

Make = Callable[..., Any]
ADAM = partial(Adam, lr=0.01)


def ends(search: SearchStrategy) -> dict[str, Any]:
    """What a search has learned, on the CPU."""
    state = search.state_dict()
    extra = state.pop("_extra_state")
    return {**{name: value.cpu() for name, value in state.items()}, "extra": extra}


class Places(Callback):
    """Notes where everything is at the end of each batch."""

    def __init__(self) -> None:
        self.kinds: set[tuple[str, str]] = set()
        self.pinned: set[bool] = set()  # whether candidates' weights are
        self.steps = 0  # of the optimizer

    def on_train_batch_end(self, trainer: Trainer, search: Any, *_: Any) -> None:
        names = {weight: name for name, weight in search.named_parameters()}
        for weight, name in names.items():
            kind = "candidates" if ".candidates." in name else "others"
            self.kinds.add((kind, weight.device.type))
            if kind == "candidates":
                self.pinned.add(weight.is_pinned())
            if weight.grad is not None:
                self.kinds.add((f"gradients of {kind}", weight.grad.device.type))
        for weight, state in trainer.optimizers[0].state.items():
            kind = "candidates" if ".candidates." in names[weight] else "others"
            self.kinds.add((f"state of {kind}", state["exp_avg"].device.type))
            self.steps = max(self.steps, int(state["step"]))


def expected(device: str) -> set[tuple[str, str]]:
    """What :class:`Places` notes."""
    kinds = (("candidates", "cpu"), ("others", device))
    return {(f"{what}{kind}", place) for what in ("", "gradients of ", "state of ") for kind, place in kinds}


def check_going_on(
    at: int,
    places: Places,
    device: Callable[[], dict[str, Any]],
    make_search: Make,
    make_loaders: Make,
    fit: Make,
    tmp_path: Path,
    assert_same: Make,
    assert_alike: Make,
) -> None:
    """Lightning moves the state of an optimizer to its device when it resumes; ``places`` are those after that.

    ``assert_alike`` compares a run that goes on without offloading, whose optimizer then steps on the device.
    """

    class Crash(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.fit_loop.epoch_loop.total_batch_idx == at:
                raise InterruptedError

    def run(*callbacks: Callback, offload: bool = True, **options: Any) -> Any:
        search = make_search("advantage", weight_optimizer=ADAM, offload=offload)
        torch.manual_seed(3)
        options |= {"callbacks": list(callbacks), "enable_checkpointing": True, **device()}
        return search, fit(search, make_loaders(), max_epochs=2, default_root_dir=tmp_path, **options)

    straight, _ = run()
    saving = LastCheckpoint(tmp_path, every_n_steps=1)
    with pytest.raises(InterruptedError):
        run(saving, Crash())
    checkpoint = shutil.copy(tmp_path / "last.ckpt", tmp_path / "crash.ckpt")
    resumed, _ = run(places, ckpt_path=checkpoint)
    assert_same(ends(resumed), ends(straight))
    without, _ = run(offload=False, ckpt_path=checkpoint)
    assert_alike(ends(without), ends(straight))

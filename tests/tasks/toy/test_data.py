from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import Adam

from advnas_lightning import AdvantageNAS
from advnas_lightning.objectives import Regression
from advnas_lightning.tasks.toy import TeacherData, ToyNetwork

SIZES = {"nodes": 3, "candidates": 4, "batch_size": 5, "batches": 3, "test_batches": 2}


def architecture_batches(data: TeacherData, epoch: int) -> list[Tensor]:
    """The images of one epoch, as a trainer asks for them."""
    loader = data.train_dataloader()["architecture"]
    loader.sampler.set_epoch(epoch)
    return [images for images, _ in loader]


def key(images: Tensor) -> bytes:
    return images.numpy().tobytes()


def test_only_architecture_batches_are_given() -> None:
    data = TeacherData(**SIZES)
    assert list(data.train_dataloader()) == ["architecture"]
    assert len(data.train_dataloader()["architecture"]) == 3
    assert len(data.test_dataloader()) == 2


def test_every_step_of_every_epoch_has_a_fresh_batch() -> None:
    data = TeacherData(**SIZES)
    batches = [images for epoch in range(4) for images in architecture_batches(data, epoch)]
    batches += [images for loader in (data.test_dataloader(), data.val_dataloader()) for images, _ in loader]
    assert len({key(images) for images in batches}) == 4 * 3 + 2 + 2
    assert all(images.shape == (5, 1, 13, 13) for images in batches)


def test_batches_follow_from_the_seed_and_their_place() -> None:
    torch.manual_seed(0)
    first = [architecture_batches(TeacherData(**SIZES, seed=4), epoch) for epoch in (0, 2)]
    torch.manual_seed(1)
    again = [architecture_batches(TeacherData(**SIZES, seed=4), epoch) for epoch in (0, 2)]
    other = [architecture_batches(TeacherData(**SIZES, seed=5), epoch) for epoch in (0, 2)]
    for a, b, c in zip(first, again, other, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(a, b, strict=True))
        assert not any(torch.equal(left, right) for left, right in zip(a, c, strict=True))


def test_the_test_batches_are_always_the_same() -> None:
    data = TeacherData(**SIZES)
    for (a, y), (b, z) in zip(data.test_dataloader(), data.test_dataloader(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(y, z)


def test_test_batches_by_number_go_on_where_the_loader_ends() -> None:
    data = TeacherData(**SIZES)
    batches = [data.test_batch(index) for index in range(50)]
    for (images, outputs), (expected, targets) in zip(batches, data.test_dataloader(), strict=False):
        assert torch.equal(images, expected)
        assert torch.equal(outputs, targets)
    assert len({key(images) for images, _ in batches}) == 50
    again = TeacherData(**SIZES)
    assert torch.equal(again.test_batch(45)[0], batches[45][0])  # whatever was asked for before


def test_images_are_uniform_and_outputs_the_teachers() -> None:
    data = TeacherData(nodes=3, candidates=4, batch_size=300, seed=1)
    images, outputs = next(iter(data.train_dataloader()["architecture"]))
    count = images.numel()  # 50 700 of U[−1, 1], whose mean is 0 and whose variance 1/3: five standard errors
    assert images.abs().max().item() <= 1
    assert abs(images.mean().item()) < 5 / (3 * count) ** 0.5
    assert images.square().mean().item() == pytest.approx(1 / 3, abs=5 * (4 / 45 / count) ** 0.5)
    plain = data.teacher.apply(ToyNetwork(nodes=3, candidates=4, seed=1))
    torch.testing.assert_close(plain(images), outputs)
    assert outputs.shape == (300,)
    assert not outputs.requires_grad


def test_the_teacher_is_uniform_over_seeds() -> None:
    teachers = [TeacherData(nodes=2, candidates=3, seed=seed).teacher for seed in range(120)]
    for edge in ("input->1", "input->2"):
        counts = Counter(teacher[edge] for teacher in teachers)
        statistic = sum((counts[f"filter{j}"] - 40) ** 2 / 40 for j in range(3))
        assert statistic < 13.8  # χ² with 2 degrees of freedom passes this once in a thousand
    assert TeacherData(nodes=2, candidates=3, seed=7).teacher == teachers[7]


def test_a_fit_reads_fresh_batches_also_after_a_resume(fit: Callable[..., Trainer], tmp_path: Path) -> None:
    class Notes(Callback):
        def __init__(self) -> None:
            self.images: list[Tensor] = []

        def on_train_batch_start(self, trainer: Any, module: Any, batch: dict[str, Any], index: int) -> None:
            self.images.append(batch["architecture"][0].clone())

    def run(epochs: int, resume: Path | None = None) -> tuple[list[bytes], Tensor]:
        notes = Notes()
        saving = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
        search = AdvantageNAS(
            ToyNetwork(nodes=3, candidates=4), architecture_optimizer=partial(Adam, lr=0.1), objective=Regression()
        )
        data = TeacherData(**SIZES)
        fit(search, data, max_epochs=epochs, callbacks=[notes, saving], enable_checkpointing=True, ckpt_path=resume)
        return [key(images) for images in notes.images], search.theta.detach()

    straight, theta = run(3)
    assert len(set(straight)) == 9
    assert straight == [key(images) for e in range(3) for images in architecture_batches(TeacherData(**SIZES), e)]
    (tmp_path / "last.ckpt").unlink()
    run(1)
    resumed, resumed_theta = run(3, tmp_path / "last.ckpt")
    assert resumed == straight[3:]
    assert torch.equal(resumed_theta, theta)

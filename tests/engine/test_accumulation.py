"""k batches that count as one are that one batch; both gradients are clipped, by norm or by value."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import AdvantageNAS, MixedOp, SearchLoader, SearchStrategy
from advnas_lightning.callbacks import LastCheckpoint
from advnas_lightning.objectives import Classification
from tests.support.small_search import STRATEGIES, few

Make = Callable[..., Any]
OPTIMIZERS = {
    "weight_optimizer": partial(SGD, lr=0.1, momentum=0.9),
    # Adam's first steps are the signs of its gradients; with this ε a rounding error cannot turn one
    "architecture_optimizer": partial(Adam, lr=0.1, eps=1e-2),
    "weight_clip": 1.0,
    "architecture_clip": 0.5,
    "warmup_epochs": 1,
}
TOLERANCE = 1e-6  # float32's rounding of sums in another order, over 3 epochs


def loader(size: int, batch: int, seed: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(size, 4, generator=generator), torch.randint(3, (size,), generator=generator)
    return DataLoader(TensorDataset(*data), batch_size=batch)


def run(make_search: Make, small_net: Make, fit: Make, name: str, loaders: Any, **options: Any) -> SearchStrategy:
    torch.manual_seed(0)
    # what is averaged over a batch alone, or random, differs from batch to batch
    model = small_net(dropout=0.0, norm=False)
    search: SearchStrategy = make_search(name, model, **{**OPTIMIZERS, **options})
    fit(search, loaders, max_epochs=3)
    return search


def check_same(ours: SearchStrategy, theirs: SearchStrategy) -> None:
    assert ours.weight_steps == theirs.weight_steps
    assert ours.architecture_steps == theirs.architecture_steps
    for (name, a), (_, b) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        if isinstance(a, Tensor):
            torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE, msg=name)


@pytest.mark.parametrize("name", few(STRATEGIES))
def test_four_batches_are_one(name: str, make_search: Make, small_net: Make, fit: Make) -> None:
    def loaders(batch: int) -> dict[str, Any]:
        return {"weights": loader(64, batch, 1), "architecture": loader(64, batch, 2)}

    if name == "darts-second_order":
        with pytest.raises(ValueError, match="accumulate=4: second_order=true looks ahead on a single weight batch"):
            make_search(name, small_net(), accumulate=4)
        return
    large = run(make_search, small_net, fit, name, loaders(16))
    small = run(make_search, small_net, fit, name, loaders(4), accumulate=4)
    check_same(small, large)


def test_an_incomplete_group_and_batch_count_by_their_size(make_search: Make, small_net: Make, fit: Make) -> None:
    """44 samples: batches of 16, 16 and 12 are those of 6, 6, 4 and so on only by luck, of 8 in pairs they are."""

    def loaders(batch: int) -> dict[str, Any]:
        return {"weights": loader(44, batch, 1), "architecture": loader(44, batch, 2)}

    large = run(make_search, small_net, fit, "advantage-ema", loaders(16))
    small = run(make_search, small_net, fit, "advantage-ema", loaders(8), accumulate=2)
    check_same(small, large)
    assert small.weight_steps == 9


def test_alternating_batches(make_search: Make, small_net: Make, fit: Make) -> None:
    class Turns:
        def __init__(self, batch: int) -> None:
            self.parts = [loader(32, batch, seed) for seed in (1, 2)]

        def __len__(self) -> int:
            return sum(map(len, self.parts))

        def __iter__(self) -> Any:
            return (batch for pair in zip(*self.parts, strict=True) for batch in pair)

    searches = [
        run(make_search, small_net, fit, "gdas", SearchLoader({"weights": Turns(batch)}, alternate=True),
            accumulate=k, warmup_epochs=0)
        for batch, k in ((8, 1), (4, 2))
    ]  # fmt: skip
    check_same(*searches)
    assert searches[1].weight_steps == searches[1].architecture_steps == 12


def test_a_bad_batch_costs_its_whole_step(make_search: Make, small_net: Make, fit: Make) -> None:
    class Broken(Classification):
        calls = 0

        def forward(self, model: nn.Module, batch: Any) -> Any:
            outcome = super().forward(model, batch)
            if self.training and torch.is_grad_enabled():
                type(self).calls += 1
                if type(self).calls == 2:
                    return outcome._replace(loss=outcome.loss * float("nan"))
            return outcome

    search = make_search(
        "reinforce", small_net(), objective=Broken(3), accumulate=4, weight_optimizer=partial(SGD, lr=0.1)
    )
    with pytest.warns(UserWarning, match="a weight step is left out"):
        fit(search, {"weights": loader(64, 4, 1), "architecture": loader(64, 4, 2)})
    assert search.guard.total == {"weight": 1, "architecture": 0}
    assert (search.weight_steps, search.architecture_steps) == (3, 4)
    assert all(parameter.isfinite().all() for parameter in search.parameters())


class Module(LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.rates: list[float] = []

    def training_step(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def on_train_batch_end(self, *_: Any) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [{"scheduler": StepLR(optimizer, 1, 0.5), "interval": "step"}]


def test_a_users_module_accumulates_as_lightning_does(fit: Make) -> None:
    def net(choice: bool) -> nn.Module:
        torch.manual_seed(0)
        linear = nn.Linear(4, 3)
        # a choice that makes no difference, so that the search trains as the plain network does
        return nn.Sequential(MixedOp("edge", {"a": linear, "b": linear}) if choice else linear, nn.Linear(3, 3))

    theirs, ours = Module(net(False)), Module(net(True))
    fit(theirs, loader(32, 4, 1), max_epochs=2, accumulate_grad_batches=4)
    search = AdvantageNAS(ours, architecture_optimizer=partial(Adam, lr=0.1), accumulate=4)
    fit(search, {"weights": loader(32, 4, 1), "architecture": loader(32, 4, 2)}, max_epochs=2)
    assert search.weight_steps == ours.trainer.global_step == theirs.trainer.global_step == 4
    assert ours.rates == theirs.rates
    pairs = list(zip(ours.net.parameters(), theirs.net.parameters(), strict=True))
    assert len(pairs) == 4
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def test_checkpoints_are_taken_between_groups(
    make_search: Make, small_net: Make, fit: Make, assert_same: Make, tmp_path: Any
) -> None:
    class CrashAt(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.fit_loop.epoch_loop.total_batch_idx == 23:
                raise InterruptedError

    def go(folder: str, *callbacks: Callback, ckpt_path: Any = None) -> SearchStrategy:
        torch.manual_seed(0 if ckpt_path is None else 9)
        search: SearchStrategy = make_search("advantage", small_net(), **OPTIMIZERS, accumulate=3)
        loaders = {"weights": loader(60, 4, 1), "architecture": loader(60, 4, 2)}
        saving = LastCheckpoint(tmp_path / folder, every_n_steps=1)
        fit(
            search,
            loaders,
            max_epochs=3,
            enable_checkpointing=True,
            callbacks=[saving, *callbacks],
            ckpt_path=ckpt_path,
        )
        return search

    straight = go("straight")
    with pytest.raises(InterruptedError):
        go("broken", CrashAt())
    last = tmp_path / "broken" / "last.ckpt"
    progress = torch.load(last, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert progress["total"]["completed"] == 21  # 15 of the first epoch, and two groups of 3
    assert_same(go("broken", ckpt_path=last).state_dict(), straight.state_dict())


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("role", ["weights", "architecture"])
def test_each_gradient_is_clipped_by_its_own_rule(
    algorithm: str, role: str, make_search: Make, small_net: Make, fit: Make
) -> None:
    seen: dict[str, list[Tensor]] = {}

    def spying(kind: str) -> Callable[[Any], SGD]:
        class Spy(SGD):
            def step(self, closure: Any = None) -> Any:
                closure()  # in which Lightning calls the hook that clips
                grads = [p.grad.flatten() for group in self.param_groups for p in group["params"] if p.grad is not None]
                seen.setdefault(kind, []).append(torch.cat(grads).clone())
                return super().step()

        return partial(Spy, lr=1e-3)

    prefix = "weight" if role == "weights" else role
    search = make_search(
        "darts",  # whose gradients are never zero
        small_net(),
        weight_optimizer=spying("weights"),
        architecture_optimizer=spying("architecture"),
        **{f"{prefix}_clip": 1e-3, f"{prefix}_clip_algorithm": algorithm},
    )
    fit(search, {"weights": loader(16, 8, 1), "architecture": loader(16, 8, 2)})
    other = "architecture" if role == "weights" else "weights"
    assert all(gradient.norm() > 2e-3 for gradient in seen[other])
    for gradient in seen[role]:
        size = gradient.norm() if algorithm == "norm" else gradient.abs().max()
        assert size.item() == pytest.approx(1e-3, rel=1e-3)
        if algorithm == "value":
            assert gradient.norm() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_clip_val": 0.5}, r"Trainer\(gradient_clip_val=0.5\).*the strategy weight_clip=0.5, and"),
        (
            {"gradient_clip_algorithm": "value"},
            r'Trainer\(gradient_clip_algorithm=value\).*weight_clip=…, weight_clip_algorithm="value"$',
        ),
        (
            {"gradient_clip_val": 2, "gradient_clip_algorithm": "norm"},
            'the strategy weight_clip=2, weight_clip_algorithm="norm", and',
        ),
        ({"accumulate_grad_batches": 2}, r"Trainer\(accumulate_grad_batches=2\).*the strategy accumulate=2"),
    ],
)
@pytest.mark.parametrize("adopted", [False, True])
def test_trainer_options_that_cannot_work_name_ours(
    options: dict[str, Any], message: str, adopted: bool, make_search: Make, small_net: Make, fit: Make
) -> None:
    search = (
        AdvantageNAS(Module(small_net()), architecture_optimizer=partial(Adam, lr=0.1))
        if adopted
        else make_search("advantage", small_net())
    )
    with pytest.raises(MisconfigurationException, match=message):
        fit(search, {"weights": loader(16, 8, 1), "architecture": loader(16, 8, 2)}, **options)

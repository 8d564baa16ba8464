"""Several loaders of a validation or a test are reported one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from advnas_lightning import AdvantageNAS, ArchitectureCost, Fixed, Genotype, SearchStrategy
from advnas_lightning.cost.meters import count_parameters
from advnas_lightning.engine.schedules import schedule
from advnas_lightning.objectives import Classification
from tests.support.classifier import GENOTYPE, Classifier, OwnLoss, Rows, loader, make, pair, search_of
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
KINDS: dict[str, Callable[..., SearchStrategy]] = {
    "own_loss": lambda **options: search_of(make().net, OwnLoss, weight_optimizer=partial(SGD, lr=0.1), **options),
    "objective": lambda **options: search_of(
        make().net, weight_optimizer=partial(SGD, lr=0.1), objective=Classification(3), **options
    ),
}


@pytest.fixture
def evaluate() -> Callable[..., dict[str, float]]:
    """``evaluate("test", search, loaders)``: all that it reports."""

    def run(how: str, search: LightningModule, loaders: Any) -> dict[str, float]:
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
        found: dict[str, float] = {}
        for metrics in getattr(trainer, how)(search, loaders, verbose=False):
            found |= metrics
        return found

    return run


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("how", "stage"), [("validate", "val"), ("test", "test")])
def test_each_loader_has_its_own_numbers(kind: str, how: str, stage: str, evaluate: Any) -> None:
    search, loaders = KINDS[kind](), [loader(3, 2), loader(4, 3, size=5), loader(5, 1)]
    alone = [evaluate(how, search, each) for each in loaders]
    assert alone[0].keys() == ({f"{stage}/loss"} if kind == "own_loss" else {f"{stage}/loss", f"{stage}/accuracy"})
    expected = {f"{name}/dataloader_idx_{at}": value for at, each in enumerate(alone) for name, value in each.items()}
    assert len({value for name, value in expected.items() if "loss" in name}) == 3
    assert evaluate(how, search, loaders) == expected
    assert evaluate(how, search, dict(zip("abc", loaders, strict=True))) == expected
    assert evaluate(how, search, loaders[:1]) == alone[0]  # one in a list is one


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_reports_each_and_callbacks_and_schedules_watch_them(kind: str, fit: Fit, evaluate: Any) -> None:
    watched = "val/loss/dataloader_idx_1"
    plateau = partial(ReduceLROnPlateau, patience=0, factor=0.5, threshold=0.9)
    search = KINDS[kind](weight_scheduler=partial(schedule, scheduler=plateau, monitor=watched))
    loaders, logger = [loader(3, 2), loader(4, 3)], Rows()
    stopping = EarlyStopping(watched, patience=100)
    trainer = fit(search, pair(), loaders, max_epochs=3, logger=logger, callbacks=[stopping])
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.025
    assert float(stopping.best_score) == pytest.approx(min(logger.values(watched)))
    fitted = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val")}
    assert fitted == pytest.approx(evaluate("validate", AsFitted(search), loaders))
    assert all(logger.values(name)[-1] == pytest.approx(value) for name, value in fitted.items())
    assert len(logger.values(watched)) == 3


def AsFitted(search: SearchStrategy) -> SearchStrategy:
    """The search, which evaluates what it does within a fit: the most probable architecture."""
    search.select = "argmax"
    return search


def test_what_is_watched_by_default_is_of_one_loader(fit: Fit) -> None:
    search = KINDS["own_loss"](weight_scheduler=ReduceLROnPlateau)
    with pytest.raises(
        Exception, match=r"waits for 'val/loss', and there is only .*val/loss/dataloader_idx_1"
    ) as caught:
        fit(search, pair(), [loader(3), loader(4)])
    assert "\n" not in str(caught.value)


def test_loaders_that_are_read_together_are_one(evaluate: Any) -> None:
    class Search(AdvantageNAS):
        def loss(self, batch: dict[str, Any]) -> Tensor:
            return torch.stack([self.model(x).square().mean() for x, _ in batch.values()]).sum()

    search = search_of(make().net, Search)
    both = CombinedLoader({"a": loader(3), "b": loader(4)}, "min_size")
    assert evaluate("validate", search, both).keys() == {"val/loss"}


class Indexed(Classifier):
    """Takes the number of the loader, which has no default."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int) -> None:
        self.log(f"of_{dataloader_idx}", batch[0].sum(), add_dataloader_idx=False)


@pytest.mark.parametrize(
    ("kind", "loaders"),
    [(Classifier, [loader(3), loader(4)]), (Indexed, loader(3)), (Indexed, [loader(3), loader(4)])],
)
def test_a_module_that_does_not_fit_its_loaders_is_told_as_without_a_search(
    kind: type[Classifier], loaders: list[DataLoader[Any]], fit: Fit
) -> None:
    said = []
    for module in (Genotype(GENOTYPE).apply(make(kind)), Fixed(make(kind), genotype=GENOTYPE)):
        try:
            metrics = fit(module, pair()["weights"], loaders).callback_metrics
            said.append({name: float(value) for name, value in metrics.items() if name.startswith("of_")})
        except RuntimeError as error:
            said.append(str(error).replace(type(module).__name__, "the module"))
    assert said[0] == said[1]


@pytest.mark.parametrize("select", slow_but(["argmax", "process_best"], ["process_best"]))
def test_a_module_is_evaluated_with_what_is_selected(select: str, evaluate: Any, fit: Fit) -> None:
    class Looking(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.validated: list[Tensor] = []

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.validated.append(self(batch[0]).detach())

        test_step = predict_step = validation_step

        def on_validation_epoch_end(self) -> None:
            self.validated.append(self(inputs).detach())

    inputs, data = torch.randn(6, 4), loader(3, 1)
    for seed in range(20):  # until the two differ
        search = search_of(Looking(), select=select, seed=seed)
        fit(search, pair(), data, max_epochs=3)
        if search.genotype("argmax") != search.genotype("process_best"):
            break
    assert search.genotype("argmax") != search.genotype("process_best")
    with search.calibrated(search.one_hot(search.argmax_choice())):
        (x, _), network = next(iter(data)), search.genotype("argmax").apply(search.model).eval()
    assert torch.equal(search.model.validated[-2], network(x))
    assert torch.equal(search.model.validated[-1], network(inputs))
    network = search.derive().eval()
    for how in ("validate", "test"):
        evaluate(how, search, data)
        assert torch.equal(search.model.validated[-1 - (how == "validate")], network(x))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.predict(search, data)
    assert torch.equal(search.model.validated[-1], network(x))


def test_a_module_is_validated_within_the_budget(fit: Fit) -> None:
    class Looking(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    torch.manual_seed(0)
    search = search_of(Looking(), cost=ArchitectureCost("params", budget=150))
    search.theta.data[0, 0] = 9.0  # a Linear of 72 parameters in each edge is beyond it
    search.theta.data[1, 0] = 9.0
    trainer = fit(search, pair(1, 1), loader(3, 1), max_epochs=1)
    network = search.genotype().apply(search.model).eval()
    assert count_parameters(network) <= 150 < 67 + 2 * 72
    (x, y) = next(iter(loader(3, 1)))
    expected = nn.functional.cross_entropy(network(x), y).item()
    assert trainer.callback_metrics["val_loss"].item() == pytest.approx(expected, rel=1e-6)

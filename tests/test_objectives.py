import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from advnas_lightning import Fixed, SearchStrategy
from advnas_lightning.objectives import Classification, LanguageModelling, Objective, Outcome, Regression
from advnas_lightning.tasks.ptb import PennTreebank, RecurrentLM
from advnas_lightning.tasks.ptb.data import Windows
from tests.support.refusals import one_line


def outcome(loss: float, size: int) -> Outcome:
    return Outcome(torch.tensor(loss), size)


# -- any task --------------------------------------------------------------------------------------------------------


def test_an_evaluations_loss_is_the_mean_over_all_terms() -> None:
    task = Regression()
    for loss, size in ((1.0, 6), (4.0, 1), (2.0, 3)):
        task.update(outcome(loss, size))
    assert task.compute() == {"loss": pytest.approx((6 + 4 + 6) / 10)}
    task.reset()
    task.update(outcome(3.0, 1))
    assert task.compute()["loss"].item() == 3


def test_a_long_evaluation_keeps_its_precision() -> None:
    task = Regression()
    for _ in range(1000):
        task.update(outcome(5.1, 9000))
    assert task.compute()["loss"].item() == pytest.approx(5.1, rel=1e-4)


@pytest.mark.parametrize(
    ("dtype", "loss"),
    [(torch.float16, 40.0), (torch.bfloat16, 40.0), (torch.float64, 1e300), (torch.float64, 1 + 1e-12)],
)
def test_an_evaluations_loss_of_any_type(dtype: torch.dtype, loss: float) -> None:
    task = Objective()
    for _ in range(100):
        task.update(Outcome(torch.tensor(loss, dtype=dtype), 2240))  # 40 · 2240 is beyond a float16
    assert task.compute()["loss"].item() == pytest.approx(loss, rel=1e-14 if dtype is torch.float64 else 1e-6)


@pytest.mark.parametrize("objective", [Classification(2), Regression()])
@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ({"input_ids": 0, "labels": 1}, "a dict of 'input_ids', 'labels': search a LightningModule"),  # it has two keys
        ((0, 1, 2), "a tuple of 3: search a LightningModule"),
        ([0], "a list of 1: search a LightningModule"),
    ],
)
def test_a_batch_without_inputs_and_targets_is_refused(objective: Objective, batch: Any, told: str) -> None:
    with one_line(f"{type(objective).__name__} reads batches (inputs, targets), and here is {told}"):
        objective(nn.Identity(), batch)


def test_a_diverged_network_reports_nan() -> None:
    task = Regression()
    task.update(outcome(1.0, 6))
    task.update(outcome(math.nan, 1))
    task.update(outcome(1.0, 6))
    assert task.compute()["loss"].isnan()
    task.reset()
    task.update(outcome(math.inf, 1))
    assert task.compute()["loss"].isinf()


def test_a_task_keeps_no_graph() -> None:
    task = Regression()
    loss = torch.ones((), requires_grad=True) * 2
    task.update(Outcome(loss, 1))
    assert not task.compute()["loss"].requires_grad


def test_a_task_without_a_loss_says_what_to_define() -> None:
    with pytest.raises(NotImplementedError, match=r"objective=.*loss\(batch\)"):
        Objective()(nn.Identity(), None)


def test_a_task_of_ones_own() -> None:
    class Top2(Objective):
        def make_metrics(self) -> dict[str, Metric]:
            return {"top2": MulticlassAccuracy(4, average="micro", top_k=2)}

        def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Outcome:
            scores = model(batch[0])
            return Outcome(F.cross_entropy(scores, batch[1]), len(scores), scores, batch[1])

    task = Top2()
    scores = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1]])
    task.update(task(nn.Identity(), (scores, torch.tensor([1, 0, 3]))))
    assert task.compute()["top2"].item() == pytest.approx(2 / 3)
    assert task.compute()["loss"].item() == pytest.approx(F.cross_entropy(scores, torch.tensor([1, 0, 3])).item())


# -- regression and classification -----------------------------------------------------------------------------------


def test_regression_over_unequal_batches() -> None:
    x, y = torch.randn(10, 2), torch.randn(10, 2)
    task, model = Regression(), nn.Linear(2, 2)
    for part in ((x[:7], y[:7]), (x[7:8], y[7:8]), (x[8:], y[8:])):
        result = task(model, part)
        assert result.size == len(part[0])
        task.update(result)
    assert task.compute()["loss"].item() == pytest.approx(F.mse_loss(model(x), y).item(), rel=1e-5)
    result = task(model, (x, y))
    assert result.loss.item() == pytest.approx((model(x) - y).square().mean().item(), rel=1e-5)
    assert result.loss.requires_grad


def test_classification_over_unequal_batches() -> None:
    x, y = torch.randn(11, 2), torch.randint(4, (11,))
    task, model = Classification(4), nn.Linear(2, 4)
    for part in ((x[:9], y[:9]), (x[9:], y[9:])):
        task.update(task(model, part))
    found = task.compute()
    assert set(found) == {"loss", "accuracy"}
    assert found["loss"].item() == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)
    assert found["accuracy"].item() == pytest.approx((model(x).argmax(1) == y).float().mean().item())
    task.reset()
    task.update(task(nn.Identity(), (F.one_hot(y, 4).float(), y)))
    assert task.compute()["accuracy"].item() == 1


# -- language modelling ----------------------------------------------------------------------------------------------


class Bigram(nn.Module):
    """Logits from the token alone; ``scale`` makes them overflow."""

    def __init__(self, words: int = 7, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(words, words, generator=generator))
        self.scale = scale

    def forward(self, tokens: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.table[tokens] * self.scale, torch.zeros(tokens.shape[1], 1)


@pytest.fixture
def windows() -> Windows:
    """23 tokens in 2 streams of 12, read 5 steps at a time: windows of 10, 10 and 3 tokens, the last one padded."""
    tokens = torch.randint(7, (23,), generator=torch.Generator().manual_seed(1))
    return Windows(tokens, eos=0, batch_size=2, bptt=5, text="valid")


@pytest.mark.parametrize("reduction", ["mean", "sum_time"])
def test_perplexity_is_over_all_tokens(windows: Windows, reduction: str) -> None:
    task, model = LanguageModelling(reduction), Bigram()
    task.eval()
    for window in windows:
        task.update(task(model, window))
    assert [window.tokens for window in windows] == [10, 10, 3]
    inputs, targets = (torch.cat([window[i].flatten() for window in windows]) for i in (0, 1))
    kept = targets != -100
    mean = F.cross_entropy(model.table[inputs[kept]], targets[kept])
    assert kept.sum() == 23
    found = task.compute()
    assert found["loss"].item() == pytest.approx(mean.item(), rel=1e-5)
    assert found["perplexity"].item() == pytest.approx(math.exp(mean.item()), rel=1e-5)


@pytest.mark.parametrize("scale", [math.inf, 1e38, math.nan])
def test_an_overflow_is_an_infinite_perplexity(windows: Windows, scale: float) -> None:
    task = LanguageModelling()
    for window, factor in zip(windows, (1.0, scale, 1.0), strict=True):
        task.update(task(Bigram(scale=factor), window))
    found = task.compute()
    assert found["perplexity"].isposinf()
    assert found["loss"] > 100
    assert not found["loss"].isnan()


def test_losses_are_summed_over_time_in_training_alone(windows: Windows) -> None:
    model, (first, _, last) = Bigram(), windows
    mean, summed = LanguageModelling(), LanguageModelling("sum_time")
    for window in (first, last):
        by_token = F.cross_entropy(model.table[window.inputs].flatten(0, 1), window.targets.flatten(), reduction="sum")
        assert mean(model, window).loss.item() == pytest.approx(by_token.item() / window.tokens, rel=1e-5)
        assert mean(model, window).size == window.tokens
        result = summed(model, window)
        assert result.loss.item() == pytest.approx(by_token.item() / 2, rel=1e-5)  # the mean over two streams
        assert result.size == 2
        assert (result.size * result.loss).item() == pytest.approx(by_token.item(), rel=1e-5)
        summed.eval()
        assert summed(model, window).loss.item() == pytest.approx(by_token.item() / window.tokens, rel=1e-5)
        assert summed(model, window).size == window.tokens
        summed.train()


def test_perplexity_of_a_fixed_network_under_a_trainer(tmp_path: Path) -> None:
    words = list("abcdefgh")
    generator = torch.Generator().manual_seed(0)
    for name, lines in (("train", 12), ("valid", 7), ("test", 3)):
        text = [" ".join(words[i] for i in torch.randint(8, (5,), generator=generator)) for _ in range(lines)]
        (tmp_path / f"ptb.{name}.txt").write_text("\n".join([" ".join(words), *text]) + "\n")
    data = PennTreebank(root=str(tmp_path), batch_size=2, bptt=4)
    data.setup()
    torch.manual_seed(0)
    supernet = RecurrentLM(words=data.words, embedding_size=4, hidden_size=5)
    genotype = dict.fromkeys(supernet.edges, "tanh")
    search = Fixed(supernet, genotype=genotype, objective=LanguageModelling("sum_time"))
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (found,) = trainer.test(search, data, verbose=False)

    def by_hand() -> float:
        model, hidden, total, count = search.model.eval(), None, 0.0, 0
        for window in data.test_dataloader():
            with torch.no_grad():
                logits, hidden = model(window.inputs, hidden)
            total += F.cross_entropy(logits.flatten(0, 1), window.targets.flatten(), reduction="sum").item()
            count += int((window.targets != -100).sum())
        assert count == 9 + 3 * 6
        return total / count

    assert found["test/loss"] == pytest.approx(by_hand(), rel=1e-5)
    assert found["test/perplexity"] == pytest.approx(math.exp(by_hand()), rel=1e-5)


# -- the weight steps' own metrics -----------------------------------------------------------------------------------


def scored(right: list[bool]) -> Outcome:
    """Four classes, one image for each of ``right``."""
    labels = torch.arange(len(right)) % 4
    scores = F.one_hot(torch.where(torch.tensor(right), labels, (labels + 1) % 4), 4).float()
    return Outcome(torch.tensor(1.0), len(right), scores, labels)


def test_training_metrics_are_those_since_they_were_last_taken() -> None:
    task = Classification(4)
    assert task.pop_training_metrics() == {}
    task.update_training(scored([True, False, False]))
    task.update_training(scored([True]))
    assert task.pop_training_metrics() == {"accuracy": pytest.approx(2 / 4)}  # over images, not over batches
    assert task.pop_training_metrics() == {}
    task.update_training(scored([False, False]))
    assert task.pop_training_metrics() == {"accuracy": 0.0}


def test_training_and_evaluation_do_not_mix() -> None:
    task = Classification(4)
    task.update_training(scored([True, True]))
    task.update(scored([False, False, False]))
    assert task.compute()["accuracy"].item() == 0
    task.reset()
    assert task.pop_training_metrics() == {"accuracy": 1.0}
    assert not task.state_dict()  # nothing of it in a checkpoint


def test_a_task_without_metrics_has_none_of_training() -> None:
    task = Regression()
    task.update_training(outcome(1.0, 3))
    assert task.pop_training_metrics() == {}


@pytest.mark.parametrize("name", ["advantage", "parsec", "darts-second_order"])
def test_a_search_logs_the_accuracy_of_its_weight_steps(
    name: str, make_search: Callable[..., SearchStrategy], make_loaders: Callable[..., Any], fit: Callable[..., Trainer]
) -> None:
    class Counted:
        """Counts by hand, and only what a weight step trains on."""

        counted: tuple[int, int] | None = None

        def weight_step(self, batch: Any) -> None:
            self.counted = self.counted or (0, 0)
            self.stepping = True
            super().weight_step(batch)  # type: ignore[misc]
            self.stepping = False

        def outcome(self, batch: Any) -> Outcome:
            result = super().outcome(batch)  # type: ignore[misc]
            if getattr(self, "stepping", False):
                right = (result.preds.argmax(1) == batch[1]).sum().item()
                self.counted = (self.counted[0] + right, self.counted[1] + len(batch[1]))
            return result

    class Notes(Callback):
        def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
            self.counts = module.counted
            module.counted = None

        def on_train_epoch_start(self, trainer: Trainer, module: Any) -> None:
            self.note(trainer)

        def on_train_end(self, trainer: Trainer, module: Any) -> None:
            self.note(trainer)

        def note(self, trainer: Trainer) -> None:  # the engine logs after its callbacks
            if hasattr(self, "counts"):
                noted.append((trainer.callback_metrics["train/accuracy"].item(), self.counts))

    noted: list[tuple[float, tuple[int, int]]] = []
    search = make_search(name, mixin=Counted)
    fit(
        search,
        make_loaders(weights=5, architecture=3),
        make_loaders()["architecture"],
        max_epochs=3,
        callbacks=[Notes()],
    )
    assert [images for _, (_, images) in noted] == [30, 30, 30]
    assert [accuracy for accuracy, _ in noted] == pytest.approx([right / images for _, (right, images) in noted])

"""A diagnosis measures what is known of its estimators."""

from __future__ import annotations

import copy
import math
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from advnas_lightning import ENAS, REINFORCE, AdvantageNAS
from advnas_lightning.diagnose import EstimatorStatistics, diagnose, diagnose_fit, recommend
from advnas_lightning.diagnose.quality import ESTIMATORS, _measure, estimator, sampled
from advnas_lightning.objectives import Classification, Regression
from tests.support.linear_space import Net, batch_of, every_choice, joint, loss_of, make, one_hot_rows, weighted
from tests.support.small_search import SmallNet

BATCHES = [batch_of(1), batch_of(2)]


def search_net() -> Any:
    return make(AdvantageNAS, Net(), objective=Regression())


def true_gradient(search: Any) -> Tensor:
    """By autograd of the sum over all architectures, without the package's edges."""
    rows = [one_hot_rows(choice, 4) for choice in every_choice(search.space)]
    losses = torch.stack([sum(loss_of(search.model, weighted(row), batch) for batch in BATCHES) / 2 for row in rows])
    theta = search.theta.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad((joint(theta, Net.sizes) * losses.detach()).sum(), theta)
    return gradient


def test_a_small_space_is_enumerated() -> None:
    search = search_net()
    truth, qualities, _ = diagnose(search, BATCHES, strategies=["reinforce"], draws=2)
    torch.testing.assert_close(truth.gradient.double(), true_gradient(search), rtol=1e-5, atol=1e-6)  # float32 losses
    assert (truth.error, truth.by) == (0, "all 24 architectures")
    rise = (-true_gradient(search)).masked_fill(~search.space.mask, -math.inf).argmax(1).tolist()
    assert truth.raises == dict(search.space.genotype(rise))
    assert [each.name for each in qualities] == ["reinforce"]


@pytest.mark.slow
def test_a_large_space_is_sampled_without_bias() -> None:
    search = search_net()
    truth = sampled(estimator("counterfactual-exact", search, progress=0.5, seed=0), BATCHES, 300)
    assert truth.by == "the mean of 300 estimates without bias"
    # Five standard errors; another seed would pass, too, but for one in a million.
    assert (truth.gradient - true_gradient(search)).norm() < 5 * truth.error
    assert truth.error < 0.2 * true_gradient(search).norm()


@pytest.mark.slow
def test_what_is_unbiased_is_found_to_be_and_what_is_not_is_not() -> None:
    search = search_net()
    truth, qualities, _ = diagnose(search, BATCHES, draws=400)
    by_name = {each.name: each for each in qualities}
    assert list(by_name) == list(ESTIMATORS)
    # The noise is the root mean square of what a mean without bias is off by: three of it is more than enough.
    for name in ("advantage-exact", "counterfactual-exact", "reinforce"):
        assert by_name[name].bias < 3 * by_name[name].noise
    for name in ("darts", "nasp", "counterfactual"):
        assert by_name[name].bias > 3 * by_name[name].noise
    assert by_name["darts"].variance == pytest.approx(by_name["darts"].noise ** 2 * 400)
    assert by_name["counterfactual"].variance < by_name["advantage"].variance  # no draw of its own edge adds to it
    assert all(each.seconds > 0 and set(each.edges) == {"a", "b", "c"} for each in qualities)
    assert by_name["advantage-exact"].agreement(truth) == 3  # the noise is far below what sets the candidates apart


def test_nothing_is_changed(make_search: Any, assert_same: Any) -> None:
    search = make_search("gdas")
    search.eval()
    batch = torch.randn(6, 4), torch.arange(6) % 3
    before, numbers = copy.deepcopy(dict(search.state_dict())), torch.get_rng_state()
    diagnose(search, [batch], draws=3)
    assert_same(dict(search.state_dict()), before)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert not any(module.training for module in search.modules())
    assert all(parameter.grad is None for parameter in search.parameters())


def test_a_loss_of_the_users_own_is_used() -> None:
    class Own(REINFORCE):
        def loss(self, batch: Tensor) -> Tensor:
            return 3 * self.model(batch).square().mean()

    torch.manual_seed(0)
    search = Own(SmallNet(dropout=0.0), architecture_optimizer=partial(torch.optim.Adam, lr=0.1))
    doubled = Own(search.model, architecture_optimizer=partial(torch.optim.Adam, lr=0.1))
    doubled.loss = lambda batch: 6 * search.model(batch).square().mean()  # type: ignore[method-assign]
    batches = [torch.randn(6, 4)]
    one, two = (diagnose(each, batches, strategies=["advantage"], draws=5) for each in (search, doubled))
    torch.testing.assert_close(2 * one[0].gradient, two[0].gradient)
    assert one[1][0].bias == pytest.approx(two[1][0].bias, rel=1e-4)


class Module(LightningModule):
    """A user's, with logs and a metric."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.accuracy = SmallNet(dropout=0.0), MulticlassAccuracy(3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        output = self.net(batch[0])
        self.accuracy(output, batch[1])
        self.log("accuracy", self.accuracy, on_epoch=True)
        return nn.functional.cross_entropy(output, batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_step_that_asks_for_the_epoch_gets_that_of_the_fit_or_of_the_checkpoint(
    make_loaders: Any, fit: Any, tmp_path: Path
) -> None:
    class Ageing(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.current_epoch / self.trainer.max_epochs * super().training_step(batch, batch_idx)

    def gradient(search: AdvantageNAS) -> Tensor:
        return diagnose_fit(search, make_loaders(), batches=2, strategies=["advantage"], draws=3)[0].gradient

    search = AdvantageNAS(Ageing(), architecture_optimizer=torch.optim.Adam)
    trainer = fit(search, make_loaders(), max_epochs=2)
    found = gradient(search)
    assert search.trainer is trainer
    assert found.any()  # it would be 0 in epoch 0
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    loaded = AdvantageNAS.load_from_checkpoint(
        tmp_path / "end.ckpt", model=Ageing(), architecture_optimizer=torch.optim.Adam
    )
    torch.testing.assert_close(gradient(loaded), found)


def test_a_lightning_modules_own_step_is_diagnosed(
    make_loaders: Any, assert_same: Any, fit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    search = AdvantageNAS(Module(), architecture_optimizer=partial(torch.optim.Adam, lr=0.1), warmup_epochs=1)
    before = copy.deepcopy(dict(search.state_dict()))
    truth, _, _ = diagnose_fit(search, make_loaders(), batches=2, strategies=["advantage"], draws=3)
    assert truth.by == "all 8 architectures"
    assert_same(dict(search.state_dict()), before)
    plain = AdvantageNAS(
        search.model.net, objective=Classification(3), architecture_optimizer=partial(torch.optim.Adam, lr=0.1)
    )
    again, _, _ = diagnose_fit(plain, make_loaders(), batches=2, strategies=["advantage"], draws=3)
    torch.testing.assert_close(truth.gradient, again.gradient)
    fit(search, make_loaders(), max_epochs=2)  # it is a search as before
    assert search.architecture_steps > 0
    with pytest.raises(ValueError, match=r"batches=0 must be a whole number of at least 1"):
        diagnose_fit(search, make_loaders(), batches=0)


def test_measures_of_estimates_with_a_known_law() -> None:
    generator = torch.Generator().manual_seed(0)
    g, shift = torch.tensor([3.0, 4.0]).double(), torch.tensor([0.0, 1.0]).double()
    noise = torch.randn(40_000, 2, generator=generator, dtype=torch.double)
    found = _measure(g + shift + 2 * noise, g)
    # Relative errors of a variance and a mean of 40 000 terms are about 1 % and 0.5 %.
    assert found["bias"] == pytest.approx(1 / 5, rel=0.05)
    assert found["variance"] == pytest.approx(2 * 4 / 25, rel=0.03)
    assert found["noise"] == pytest.approx(math.sqrt(2 * 4 / 25 / 40_000), rel=0.03)
    assert found["cosine"] == pytest.approx((9 + 20) / (5 * math.sqrt(9 + 25)), rel=0.01)
    assert found["snr"] == pytest.approx(((9 + 20) / 5) ** 2 / 8, rel=0.03)


def test_the_recommendation_weighs_signal_against_time() -> None:
    def quality(name: str, snr: float, seconds: float, cosine: float) -> EstimatorStatistics:
        return EstimatorStatistics(name, 10, seconds, 0.1, 0.1, 1.0, cosine, 0.5, snr, {})

    assert recommend([quality("slow", 4.0, 8.0, 0.95), quality("fast", 1.0, 0.5, 0.9)]).startswith("fast: the sum of a")
    assert "slow, which would then reach 0.99" in recommend(
        [quality("slow", 1.0, 8.0, 0.99), quality("fast", 1.0, 0.5, 0.5)]
    )
    assert recommend([quality("sure", 1e15, 0.1, 0.3), quality("noisy", 1.0, 0.1, 0.9)]).startswith("noisy")
    # after n steps of variance v each: a mean of [1, 0] beside g, and noise
    assert quality("any", 1 / 4, 0.5, 1.0).second_cosine == pytest.approx(1 / math.sqrt(1 + 4 / 2))


def test_bad_arguments_are_named(make_search: Any) -> None:
    search = search_net()
    with pytest.raises(ValueError, match=r"strategies has 'enas': use some of advantage, "):
        diagnose(search, BATCHES, strategies=["enas"])
    with pytest.raises(ValueError, match=r"there is no batch"):
        diagnose(search, [])
    with pytest.raises(ValueError, match=r"ENAS has no θ whose gradient could be compared"):
        diagnose(make(ENAS, Net(), objective=Regression()), BATCHES)


def test_batches_that_count_as_one_are_diagnosed_as_one(make_search: Any, make_loaders: Any) -> None:
    search = make_search("advantage", accumulate=2)
    truth, _, _ = diagnose_fit(
        search, make_loaders(weights=4, architecture=4), batches=2, strategies=["darts"], draws=2
    )
    assert truth.by == "all 8 architectures"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_diagnosis_at_once(number: int, make_search: Any, make_loaders: Any) -> None:
    lines: list[str] = []

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    def kill(line: str) -> None:
        lines.append(line)
        signal.raise_signal(number)

    before = signal.signal(number, end)
    try:
        with pytest.raises(KeyboardInterrupt):
            diagnose_fit(make_search("advantage"), make_loaders(), draws=2, on_progress=kill)
    finally:
        signal.signal(number, before)
    assert len(lines) == 1

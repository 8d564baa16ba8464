"""Bias, variance and cost of the strategies' estimates on one supernet, against the exact policy gradient."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torchmetrics.functional.regression import spearman_corrcoef

from advnas_lightning import functional
from advnas_lightning.engine.steps import SearchClock, WaitingBatches
from advnas_lightning.loaders import BATCH_HOOKS
from advnas_lightning.objectives import Objective, Outcome
from advnas_lightning.space import SearchSpace
from advnas_lightning.strategies import (
    DARTS,
    GDAS,
    NASP,
    PARSEC,
    REINFORCE,
    SNAS,
    AdvantageNAS,
    CounterfactualNAS,
    ProxylessNAS,
    SearchStrategy,
)
from advnas_lightning.validate import check_int

ESTIMATORS: dict[str, tuple[type[SearchStrategy], dict[str, Any]]] = {
    "advantage": (AdvantageNAS, {"zero_op": "none"}),
    "advantage-exact": (AdvantageNAS, {"advantage": "exact", "zero_op": "none"}),
    "counterfactual": (CounterfactualNAS, {}),
    "reinforce": (REINFORCE, {}),
    "parsec": (PARSEC, {}),
    "proxylessnas": (ProxylessNAS, {}),
    "gdas": (GDAS, {}),
    "darts": (DARTS, {}),
    "snas": (SNAS, {}),
    "nasp": (NASP, {}),
}
BURN_IN = 20  # estimates that are not counted: baselines start from nothing


@dataclass(frozen=True)
class Truth:
    """∇θ E_a[L(a)], averaged over the batches.

    Attributes:
        gradient: ``[E, J]``.
        error: the standard error of its norm; 0 where every architecture was tried.
        by: how it was found.
        raises: by edge, the candidate whose θ descent along it raises most.
    """

    gradient: Tensor
    error: float
    by: str
    raises: Mapping[str, str]


@dataclass(frozen=True)
class EstimatorStatistics:
    """One estimator's, against the exact gradient g: ĝ is what it gives to θ in one architecture step.

    Attributes:
        name: of the estimator.
        draws: how many estimates it is judged by.
        seconds: of one architecture step's estimate, median.
        bias: ‖E ĝ − g‖ / ‖g‖.
        noise: what ‖mean ĝ − g‖ / ‖g‖ would be without a bias, from so many draws.
        variance: tr Cov ĝ / ‖g‖².
        cosine: of the mean with g.
        draw_cosine: of a single ĝ with g, in the mean.
        snr: ⟨E ĝ, g/‖g‖⟩² / tr Cov ĝ: of one step, what points along g against what does not stay.
        edges: by edge, the same bias, variance and cosine, and the candidate whose θ the mean ĝ raises most.
    """

    name: str
    draws: int
    seconds: float
    bias: float
    noise: float
    variance: float
    cosine: float
    draw_cosine: float
    snr: float
    edges: Mapping[str, Mapping[str, Any]]

    @property
    def snr_per_second(self) -> float:
        """The signal-to-noise ratio that a second of architecture steps reaches: their number times one's."""
        return self.snr / self.seconds

    @property
    def second_cosine(self) -> float:
        """Of g with the sum of a second's architecture steps: what noise and bias leave of the direction."""
        return self.cosine / math.sqrt(1 + self.cosine**2 / self.snr_per_second) if self.snr_per_second else 0.0

    def agreement(self, truth: Truth) -> int:
        """On how many edges it raises the candidate that the exact gradient raises."""
        return sum(self.edges[edge]["raises"] == candidate for edge, candidate in truth.raises.items())


@dataclass(frozen=True)
class Credit:
    """How well Eq. (7), from one backward pass, ranks what Eq. (6) measures with a forward pass for each edge.

    Attributes:
        rank_correlation: Spearman's, over all edges and draws.
        sign_agreement: the share of them in which both have one sign.
        draws: how many.
    """

    rank_correlation: float
    sign_agreement: float
    draws: int


Diagnosis = tuple[Truth, list[EstimatorStatistics], Credit]


def diagnose(
    search: SearchStrategy,
    batches: Sequence[Any],
    *,
    strategies: Iterable[str] = tuple(ESTIMATORS),
    draws: int = 200,
    exact_draws: int = 2000,
    progress: float = 0.5,
    seed: int = 0,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Diagnosis:
    """Let strategies estimate ∇θ E_a[L(a)] at a search's θ and weights, which stay as they are.

    Estimators draw alike, and take turns through the batches. Random layers stay random, and add to every variance.

    Args:
        search: any strategy with a θ, with its network, loss and weights.
        batches: of architecture steps, on the search's device.
        strategies: names of :data:`ESTIMATORS`.
        draws: architecture steps of each.
        exact_draws: how many unbiased estimates of Eq. (6) stand for the exact gradient, where to try every
            architecture would take more passes.
        progress: of the search, for temperatures that fall.
        seed: of the draws.
        on_progress: is called with what is being done, in words.

    Raises:
        ValueError: an unknown strategy, no batch, or a search that has no θ.
    """
    names = list(strategies)
    for name in names:
        if name not in ESTIMATORS:
            raise ValueError(f"strategies has {name!r}: use some of {', '.join(ESTIMATORS)}")
    if not isinstance(getattr(search, "theta", None), Tensor):
        raise ValueError(f"{type(search).__name__} has no θ whose gradient could be compared: use another strategy's")
    if not batches:
        raise ValueError("there is no batch to diagnose on: give at least one")
    check_int("draws", draws, least=2)
    check_int("exact_draws", exact_draws, least=2)

    def make(name: str) -> SearchStrategy:
        return estimator(name, search, progress=progress, seed=seed)

    with torch.random.fork_rng(), search.evaluator.no_trace(), _training(search):
        on_progress(f"the exact gradient, of {search.space.size} architectures")
        if search.space.size * len(batches) <= exact_draws * (len(search.space) + 1):
            truth = enumerated(make("reinforce"), batches)
        else:
            truth = sampled(make("advantage-exact"), batches, exact_draws)
        qualities = []
        for name in names:
            on_progress(name)
            qualities.append(_judge(name, make(name), batches, truth, draws))
        on_progress("Eq. (7) against Eq. (6)")
        credit = _compare_credits(make("advantage"), make("advantage-exact"), batches, draws)
    return truth, qualities, credit


def diagnose_fit(
    search: SearchStrategy, train_dataloaders: Any = None, *, datamodule: Any = None, batches: int = 4, **options: Any
) -> Diagnosis:
    """:func:`diagnose` on a search's own data, and also where its loss is a LightningModule's ``training_step``.

    A fit goes through the first batches, but takes no step: θ and the weights stay as they are.

    Args:
        search: any strategy with a θ.
        train_dataloaders: as in ``Trainer.fit``.
        datamodule: as in ``Trainer.fit``.
        batches: of architecture steps, at most.
        options: those of :func:`diagnose`.

    Raises:
        ValueError: as :func:`diagnose`.
    """
    check_int("batches", batches, least=1)
    collector = _Collector(search, batches, lambda found: diagnose(search, found, **options))
    warmup_epochs, search.warmup_epochs = search.warmup_epochs, 0
    search.evaluator.is_evaluating = True  # so that nothing is logged
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=2 * batches * search.accumulate,  # also enough where only every second one is for θ
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        with torch.random.fork_rng():
            trainer.fit(collector, train_dataloaders, datamodule=datamodule)
    finally:
        search.warmup_epochs, search.evaluator.is_evaluating = warmup_epochs, False
    if collector.result is None:
        raise ValueError("the data has no batch for an architecture step")
    return collector.result


def estimator(name: str, search: SearchStrategy, *, progress: float, seed: int) -> SearchStrategy:
    """A strategy over another one's network, with its θ and its loss."""
    kind, options = ESTIMATORS[name]
    made = kind(
        search.model,
        architecture_optimizer=search.optimizations["architecture"].factory,
        objective=_LossOf(search.outcome),
        offload=search.offloaded is not None,
        seed=seed,
        **options,
    )
    made.clock = SearchClock(progress=progress)
    made.to(search.device)
    made.theta.data = search.theta.detach().clone()
    return made


def enumerated(search: SearchStrategy, batches: Sequence[Any]) -> Truth:
    """∇θ Σ_a p(a) L(a), from every architecture's loss, by a strategy that needs nothing else of it."""
    choices = list(itertools.product(*(range(len(row)) for row in search.space.candidates)))
    losses = torch.stack([_mean_loss(search, choice, batches) for choice in choices])  # [N]
    with torch.enable_grad():
        log_p = functional.log_probs(search.theta, search.mask)
        places = torch.tensor(choices, device=log_p.device)  # [N, E]
        joint = log_p.expand(len(choices), -1, -1).gather(2, places.unsqueeze(2)).sum((1, 2)).exp()  # [N]
        (gradient,) = torch.autograd.grad((joint * losses).sum(), search.theta)
    return Truth(gradient, 0.0, f"all {len(choices)} architectures", raised(search.space, gradient))


def _mean_loss(search: SearchStrategy, choice: Sequence[int], batches: Sequence[Any]) -> Tensor:
    return torch.stack([search.evaluate(search.one_hot(choice), batch).loss for batch in batches]).mean()


def sampled(exact: SearchStrategy, batches: Sequence[Any], draws: int) -> Truth:
    """The mean of estimates that have no bias."""
    estimates = torch.stack([each for each, _ in estimates_of(exact, batches, draws)])
    error = float((estimates.var(0).sum() / draws).sqrt())
    gradient = estimates.mean(0)
    return Truth(gradient, error, f"the mean of {draws} estimates of Eq. (6)", raised(exact.space, gradient))


def raised(space: SearchSpace, gradient: Tensor) -> dict[str, str]:
    """By edge, the candidate whose θ rises most in descent along a gradient ``[E, J]``; edges of one have no choice."""
    rows = zip(space.edges, space.candidates, gradient, strict=True)
    return {edge: names[int(row[: len(names)].argmin())] for edge, names, row in rows if len(names) > 1}


def recommend(qualities: Sequence[EstimatorStatistics]) -> str:
    """Selection estimator, and why."""
    best = max(qualities, key=lambda each: each.second_cosine)
    truest = max(qualities, key=lambda each: each.cosine)
    text = (
        f"{best.name}: the sum of a second's architecture steps has a cosine of {best.second_cosine:.2f} with the exact"
        f" gradient, the highest of all; without noise it would be {best.cosine:.2f}"
    )
    if best.cosine < 0.9 * truest.cosine:
        text += f". Where there is time for many steps, {truest.name}, which would then reach {truest.cosine:.2f}"
    return text


# -- inside ------------------------------------------------------------------------------------------------------------


class _LossOf(Objective):
    """Whatever loss a search has: an objective's, a user's own, or a LightningModule's ``training_step``."""

    def __init__(self, outcome: Callable[[Any], Outcome]) -> None:
        super().__init__()
        self._outcome = outcome

    def forward(self, model: nn.Module, batch: Any) -> Outcome:
        return self._outcome(batch)


class _Collector(LightningModule):
    """Goes through a search's training batches as a fit of it does, and takes no step.

    Args:
        search: whose data and hooks they are.
        batches: how many batches of architecture steps to collect.
        use: is called with them while the fit is running, and its result kept.
    """

    def __init__(self, search: SearchStrategy, batches: int, use: Callable[[list[Any]], Diagnosis]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.search, self.batches = search, batches
        self.result: Diagnosis | None = None
        self._use, self._waiting = use, WaitingBatches(search.accumulate)
        self._found: list[Any] = []
        for name in (*BATCH_HOOKS, "prepare_data", "train_dataloader"):
            if is_overridden(name, search):
                setattr(self, name, getattr(search, name))

    def configure_callbacks(self) -> list[Callback]:
        return self.search.configure_callbacks()

    def configure_optimizers(self) -> Any:
        return self.search.configure_optimizers()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        last = self.trainer.is_last_batch
        ready = self._waiting.add(batch.get("architecture"), last=last)
        if ready is not None:
            self._found.append(ready)
        if self.result is None and self._found and (last or len(self._found) == self.batches):
            self.result = self._use(self._found)


@contextmanager
def _training(search: SearchStrategy) -> Iterator[None]:
    modes = {module: module.training for module in search.modules()}
    search.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def estimates_of(made: SearchStrategy, batches: Sequence[Any], draws: int) -> Iterator[tuple[Tensor, float]]:
    """What θ is given in one architecture step after the other, and in how many seconds."""
    for index in range(BURN_IN + draws):
        started = time.perf_counter()
        gradients = made.architecture_gradients(made.evaluate_draws(batches[index % len(batches)]))
        if made.device.type != "cpu":
            getattr(torch, made.device.type).synchronize()
        made.architecture_steps += 1
        assert gradients is not None
        if index >= BURN_IN:
            yield gradients[0].detach(), time.perf_counter() - started


def _judge(name: str, made: SearchStrategy, batches: Sequence[Any], truth: Truth, draws: int) -> EstimatorStatistics:
    found, seconds = zip(*estimates_of(made, batches, draws), strict=True)
    estimates, g = torch.stack(found).double(), truth.gradient.double()  # [N, E, J], [E, J]
    edges: dict[str, dict[str, Any]] = {}
    for edge, candidate in raised(made.space, estimates.mean(0)).items():
        index = made.space.edges.index(edge)
        own = _measure(estimates[:, index], g[index])
        edges[edge] = {**{key: own[key] for key in ("bias", "variance", "cosine")}, "raises": candidate}
    whole_space = _measure(estimates.flatten(1), g.flatten())
    return EstimatorStatistics(
        name=name,
        draws=draws,
        seconds=median(seconds),
        edges=edges,
        **whole_space,
    )


def _measure(estimates: Tensor, g: Tensor) -> dict[str, float]:
    """Of estimates ``[N, K]`` of g ``[K]``."""
    size = g.norm().clamp(min=torch.finfo(g.dtype).tiny)
    mean, spread = estimates.mean(0), estimates.var(0).sum()
    cosine = torch.nn.functional.cosine_similarity
    along = (mean @ g / size).square()
    rounding = torch.finfo(g.dtype).eps * mean.square().sum() + torch.finfo(g.dtype).tiny
    return {
        "bias": float((mean - g).norm() / size),
        "noise": float((spread / len(estimates)).sqrt() / size),
        "variance": float(spread / size.square()),
        "cosine": float(cosine(mean, g, dim=0)),
        "draw_cosine": float(cosine(estimates, g.expand_as(estimates), dim=1).mean()),
        "snr": float(along / spread.clamp(min=rounding)),
    }


def _compare_credits(taylor: SearchStrategy, exact: SearchStrategy, batches: Sequence[Any], draws: int) -> Credit:
    first, second = [], []
    for index in range(draws):
        batch = batches[index % len(batches)]
        trials = exact.evaluate_draws(batch)
        drawn = taylor.evaluate(trials[0].architecture, batch)
        assert drawn.gate_grad is not None
        first.append((drawn.gate_grad * drawn.architecture.gates).sum(-1))
        second.append(trials[0].loss - torch.stack([trial.loss for trial in trials[1:]]))
    a, b = torch.stack(first).flatten(), torch.stack(second).flatten()
    # Equal credits share a rank: many are 0, those of zero operations and of edges before a normalization.
    return Credit(float(spearman_corrcoef(a, b)), float((a.sign() == b.sign()).double().mean()), draws)

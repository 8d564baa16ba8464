"""Compares the strategies' estimates on one supernet with the exact policy gradient: bias, variance and time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torchmetrics.functional.regression import spearman_corrcoef

from advnas_lightning import functional
from advnas_lightning.diagnose.options import check_settings
from advnas_lightning.diagnose.statistics import Credit, EstimatorStatistics, Truth
from advnas_lightning.engine.accumulation import WaitingBatches
from advnas_lightning.engine.clock import SearchClock
from advnas_lightning.engine.lightning_private import attached_trainer
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.interruptible import Interruptible
from advnas_lightning.loaders import BATCH_HOOKS
from advnas_lightning.modes import modes_kept
from advnas_lightning.objectives import Objective, Outcome
from advnas_lightning.space.search_space import SearchSpace
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
)
from advnas_lightning.texts import spaced

#: The estimators by their names. Each is a strategy with options.
ESTIMATORS: dict[str, tuple[type[SearchStrategy], dict[str, Any]]] = {
    "advantage": (AdvantageNAS, {"zero_op": "none"}),
    "advantage-exact": (AdvantageNAS, {"advantage": "exact", "zero_op": "none"}),
    "counterfactual": (CounterfactualNAS, {}),
    "counterfactual-exact": (CounterfactualNAS, {"advantage": "exact"}),
    "counterfactual-mix": (CounterfactualNAS, {"mix": 0.5}),
    "reinforce": (REINFORCE, {}),
    "parsec": (PARSEC, {}),
    "proxylessnas": (ProxylessNAS, {}),
    "gdas": (GDAS, {}),
    "gdas-rao": (GDAS, {"rao": 32}),
    "darts": (DARTS, {}),
    "snas": (SNAS, {}),
    "nasp": (NASP, {}),
}
BURN_IN = 20  # so many first estimates are not counted, because baselines start from nothing

Diagnosis = tuple[Truth, list[EstimatorStatistics], Credit]


def diagnose(
    search: SearchStrategy,
    batches: Sequence[Any],
    *,
    strategies: Iterable[str] = tuple(ESTIMATORS),
    draws: int = 200,
    exact_draws: int = 500,
    progress: float = 0.5,
    seed: int = 0,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Diagnosis:
    """Let strategies estimate ∇θ E_a[L(a)] at a search's θ and weights, which do not change.

    All estimators use the same seed, and each goes through the batches in turn. Random layers stay random, and add to
    every variance.

    Args:
        search: The search, which may use any strategy with a θ.
        batches: The batches of architecture steps, on the search's device.
        strategies: The names of the estimators, see :data:`~advnas_lightning.diagnose.quality.ESTIMATORS`.
        draws: The number of architecture steps of each estimator.
        exact_draws: The number of estimates by ``counterfactual-exact`` whose mean stands for the exact gradient, if
            trying every architecture would take more passes. It has no bias, and the least noise of those without one.
        progress: The progress of the search from 0 to 1, on which falling temperatures depend.
        seed: The seed of the draws.
        on_progress: A function that is called with the name of each part before it starts.

    Raises:
        ValueError: If a strategy is unknown, if a number is too small, or if there is no batch or no θ.

    Example:
        >>> from advnas_lightning import MixedOp
        >>> from advnas_lightning.objectives import Regression
        >>> edge = MixedOp("edge", {"tanh": nn.Tanh(), "skip": nn.Identity()})
        >>> search = AdvantageNAS(edge, architecture_optimizer=torch.optim.Adam, objective=Regression())
        >>> batch = torch.ones(4, 2), torch.zeros(4, 2)
        >>> truth, statistics, credit = diagnose(search, [batch], strategies=["darts"], draws=2)
        >>> truth.by, truth.raises, statistics[0].agreement(truth)
        ('all 2 architectures', {'edge': 'tanh'}, 1)
    """
    names = list(dict.fromkeys(strategies))
    check_settings({"strategies": names, "draws": draws, "exact_draws": exact_draws, "progress": progress})
    if not isinstance(getattr(search, "theta", None), Tensor):
        raise ValueError(f"{type(search).__name__} has no θ whose gradient could be compared: use another strategy's")
    if not batches:
        raise ValueError("there is no batch to diagnose on: give at least one")

    def make(name: str) -> SearchStrategy:
        return estimator(name, search, progress=progress, seed=seed)

    with torch.random.fork_rng(), search.evaluator.no_trace(), modes_kept(search):
        search.train()
        passes = 1 + sum(len(names) - 1 for names in search.space.candidates)  # of one estimate
        if search.space.size * len(batches) <= exact_draws * passes:
            on_progress(f"the exact gradient, from all {spaced(search.space.size)} architectures")
            truth = enumerated(make("reinforce"), batches)
        else:
            on_progress(f"the exact gradient, as the mean of {spaced(exact_draws)} estimates without bias")
            truth = sampled(make("counterfactual-exact"), batches, exact_draws)
        statistics = []
        for name in names:
            on_progress(name)
            statistics.append(_judge(name, make(name), batches, truth, draws))
        on_progress("Eq. (7) against Eq. (6)")
        credit = _compare_credits(make("advantage"), make("advantage-exact"), batches, draws)
    return truth, statistics, credit


def diagnose_fit(
    search: SearchStrategy, train_dataloaders: Any = None, *, datamodule: Any = None, batches: int = 4, **options: Any
) -> Diagnosis:
    """Run :func:`diagnose` on a search's own data. The loss may be a LightningModule's ``training_step``.

    A fit goes through the first batches but takes no step, so θ and the weights do not change. Its Trainer says how far
    the fit of the search itself has come.

    Args:
        search: The search, which may use any strategy with a θ.
        train_dataloaders: The loaders, as in ``Trainer.fit``.
        datamodule: The data module, as in ``Trainer.fit``.
        batches: The largest number of batches of architecture steps.
        options: The options of :func:`diagnose`.

    Raises:
        ValueError: If an option is invalid, see :func:`diagnose`, or if the data has no batch for θ.
    """
    check_settings({"batches": batches})
    attached, fit = attached_trainer(search), search.fit_state()

    def use(found: list[Any]) -> Diagnosis:
        with nullcontext() if fit is None else fit.told_by(trainer):
            return diagnose(search, found, **options)

    work = Interruptible(use)
    collector = _Collector(search, batches, work)
    warmup_epochs, search.warmup_epochs = search.warmup_epochs, 0
    search.evaluator.is_evaluating = True  # while this is true, nothing is logged
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=2 * batches * search.accumulate,  # enough even if only every second batch is for θ
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
        search.trainer = attached
    if not work.is_done:
        raise ValueError("the data has no batch for an architecture step")
    return work.result()


def estimator(name: str, search: SearchStrategy, *, progress: float, seed: int) -> SearchStrategy:
    """The named estimator: a strategy that uses the network, the loss and a copy of the θ of another search."""
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
    made.theta.data = search.logits.clone()
    return made


def enumerated(search: SearchStrategy, batches: Sequence[Any]) -> Truth:
    """The exact gradient ∇θ Σ_a p(a) L(a), from the loss of every architecture."""
    choices = list(itertools.product(*(range(len(row)) for row in search.space.candidates)))
    losses = torch.stack([_mean_loss(search, choice, batches) for choice in choices])  # [N]
    with torch.enable_grad():
        log_p = functional.log_probs(search.theta, search.mask)
        places = torch.tensor(choices, device=log_p.device)  # [N, E]
        joint = log_p.expand(len(choices), -1, -1).gather(2, places.unsqueeze(2)).sum((1, 2)).exp()  # [N]
        (gradient,) = torch.autograd.grad((joint * losses).sum(), search.theta)
    return Truth(gradient, 0.0, f"all {spaced(len(choices))} architectures", raised(search.space, gradient))


def _mean_loss(search: SearchStrategy, choice: Sequence[int], batches: Sequence[Any]) -> Tensor:
    return torch.stack([search.evaluate(search.one_hot(choice), batch).loss for batch in batches]).mean()


def sampled(exact: SearchStrategy, batches: Sequence[Any], draws: int) -> Truth:
    """The mean of estimates without bias, in place of the exact gradient."""
    estimates = torch.stack([each for each, _ in estimates_of(exact, batches, draws)])
    error = float((estimates.var(0).sum() / draws).sqrt())
    gradient = estimates.mean(0)
    return Truth(gradient, error, f"the mean of {spaced(draws)} estimates without bias", raised(exact.space, gradient))


def raised(space: SearchSpace, gradient: Tensor) -> dict[str, str]:
    """For each edge with a choice, the candidate whose θ descent along a gradient ``[E, J]`` raises most.

    Example:
        >>> from advnas_lightning import MixedOp
        >>> space = SearchSpace(MixedOp("edge", {"tanh": nn.Tanh(), "skip": nn.Identity()}))
        >>> raised(space, torch.tensor([[0.3, -0.3]]))
        {'edge': 'skip'}
    """
    rows = zip(space.edges, space.candidates, gradient, strict=True)
    return {edge: names[int(row[: len(names)].argmin())] for edge, names, row in rows if len(names) > 1}


# -- inside ------------------------------------------------------------------------------------------------------------


class _LossOf(Objective):
    """The loss of a search as an objective, be it an objective's, a user's own, or a LightningModule's."""

    def __init__(self, outcome: Callable[[Any], Outcome]) -> None:
        super().__init__()
        self._outcome = outcome

    def forward(self, model: nn.Module, batch: Any) -> Outcome:
        return self._outcome(batch)


class _Collector(LightningModule):
    """Goes through the training batches of a search as its own fit does, but takes no step.

    Args:
        search: The search, whose data and hooks are used.
        batches: The number of batches of architecture steps to collect.
        work: What is done with these batches while the fit is running.
    """

    def __init__(self, search: SearchStrategy, batches: int, work: Interruptible[Diagnosis]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.search, self.batches = search, batches
        self._work, self._waiting = work, WaitingBatches(search.accumulate)
        self._found: list[Any] = []
        for name in (*BATCH_HOOKS, "prepare_data", "train_dataloader"):  # Lightning calls these on the fitted module
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
        if not self._work.is_done and self._found and (last or len(self._found) == self.batches):
            self._work.do(self._found)


def estimates_of(made: SearchStrategy, batches: Sequence[Any], draws: int) -> Iterator[tuple[Tensor, float]]:
    """The estimates of successive architecture steps ``[E, J]``, each with the seconds that it took."""
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
    """The statistics of estimates ``[N, K]`` of g ``[K]``."""
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
    # Equal credits share a rank. Many are 0: those of zero operations, and of edges before a normalization.
    same_sign = (a.sign() == b.sign()).double().mean()
    return Credit(float(spearman_corrcoef(a.double(), b.double())), float(same_sign), draws)

"""Which architectures are scored, and how scores become a ranking."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from advnas_lightning.cost.plan import Choice, CostPlan
from advnas_lightning.cost.table import CostTable
from advnas_lightning.ranking.blend import blend
from advnas_lightning.ranking.enumeration import Rows, most_probable
from advnas_lightning.ranking.evolution import Evolution, random_choices
from advnas_lightning.ranking.result import RankedArchitecture, Ranking
from advnas_lightning.ranking.scoring import Score
from advnas_lightning.ranking.trust import Trust
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.space.search_space import SearchSpace
from advnas_lightning.texts import spaced
from advnas_lightning.validate import check_int, check_seed

__all__ = ["Distribution", "Settings", "rank_architectures"]

MOST = 1_000_000  # architectures that may be scored
DRAWS = 20  # for each architecture that is asked for, where they can only be drawn


@dataclass(frozen=True)
class Distribution:
    """The architectures of a search, and how probable they are.

    Attributes:
        space: The edges and their candidates.
        log_prob: Gives the logarithm of the probability of each choice.
        draw: Draws a number of choices by a seed.
        rows: The logarithm of p by edge and candidate, where edges are independent; otherwise ``None``.
        mode: The most probable candidate of each edge.
        scaled: The uniformly scaled architectures, see
            :func:`~advnas_lightning.space.elastic.scaling.uniformly_scaled`.

    Example:
        >>> from torch import nn
        >>> from advnas_lightning import MixedOp, RandomSearch
        >>> search = RandomSearch(MixedOp("edge", {"skip": nn.Identity(), "relu": nn.ReLU()}))
        >>> uniform = Distribution(search.space, search.log_prob, search.draw_choices, [[-0.7, -0.7]], (0,))
        >>> uniform.counts
        [2]
    """

    space: SearchSpace
    log_prob: Callable[[Sequence[Choice]], list[float]]
    draw: Callable[[int, int], list[Choice]]
    rows: Rows | None
    mode: Choice
    scaled: Sequence[Choice] = ()

    @property
    def counts(self) -> list[int]:
        """The number of candidates of each edge."""
        return [len(row) for row in self.space.candidates]

    @property
    def is_uniform(self) -> bool:
        """Whether all architectures are equally probable, as after a search that learns no probabilities."""
        return self.rows is not None and all(min(row) == max(row) for row in self.rows)

    def canonical(self, choice: Sequence[int]) -> Choice:
        """The most probable of the architectures that are the network of a choice, which stands for all of them."""
        return self.space.nesting.canonical(choice, self.mode)

    def canonical_genotype(self, genotype: Genotype) -> Genotype:
        """The same by names."""
        return self.space.genotype(self.canonical(self.space.choice(genotype)))

    def network_log_prob(self, choices: Sequence[Choice]) -> list[float]:
        """The logarithm of the probability of each choice's network, whatever the edges have that it leaves out.

        Where edges depend on each other, it is that of the choice alone.
        """
        rows, nesting = self.rows, self.space.nesting
        if rows is None or not nesting.deciders:
            return self.log_prob(choices)
        return [
            math.fsum(rows[edge][index] for edge, index in enumerate(choice) if edge not in nesting.left_out(choice))
            for choice in choices
        ]

    def probable(self, number: int | None, plan: CostPlan | None, seed: int) -> list[Choice]:
        """The most probable architectures within the budgets, the first ones first; of each network one.

        Where edges depend on each other, they are the most probable ones of many draws. Where all architectures are
        equally probable, they are drawn: the first ones in some order would be much alike.

        Args:
            number: How many; ``None`` for all.
            plan: The costs and budgets, if there are any.
            seed: The seed of the draws.
        """
        nesting = self.space.nesting

        def allows(choice: Choice) -> bool:
            return plan is None or plan.allows(nesting.canonical(choice))

        if self.rows is not None:
            found = []
            if number is not None and self.is_uniform:
                found = random_choices(number, self.counts, allows=allows, canonical=self.canonical, seed=seed)
            if len(found) != number:  # few are within the budgets
                probable = islice(most_probable(self.rows, plan, nesting=nesting), number)
                found += [self.canonical(choice) for _, choice in probable]
            return list(dict.fromkeys(found))[:number]
        if number is None or number >= self.space.size:
            uniform = [[0.0] * count for count in self.counts]  # the order does not matter if all are taken
            found = [self.canonical(choice) for _, choice in most_probable(uniform, plan, nesting=nesting)]
        else:
            drawn = dict.fromkeys(map(self.canonical, self.draw(DRAWS * number, seed)))
            found = list(filter(allows, drawn))
        values = dict(zip(found, self.log_prob(found), strict=True)) if found else {}
        return sorted(found, key=lambda choice: (-values[choice], choice))[:number]


@dataclass(frozen=True)
class Settings:
    """Which architectures a ranking scores.

    Attributes:
        top: The number of the most probable architectures, or of draws where all are equally probable; ``None`` for
            all.
        sample: The number of architectures that are drawn with equal chances, which tell how far losses are to be
            trusted.
        evolution: How new architectures are made of the best ones, if they are to be.
        seed: The seed of the draws.

    Raises:
        ValueError: A number is out of its range, or the evolution is none.

    Example:
        >>> Settings(top=20).sample
        50
    """

    top: int | None = 100
    sample: int = 50
    evolution: Evolution | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.top is not None:
            check_int("top", self.top, least=1)
        check_int("sample", self.sample, least=0)
        check_seed("seed", self.seed)
        if self.evolution is not None and not isinstance(self.evolution, Evolution):
            raise ValueError(f"evolution={self.evolution!r} must be an Evolution, such as Evolution(generations=10)")


def rank_architectures(
    distribution: Distribution,
    score: Callable[[Sequence[Choice]], Sequence[Score]],
    settings: Settings,
    *,
    tables: Mapping[str, CostTable] | None = None,
    budgets: Sequence[Mapping[str, float]] = (),
    named: Mapping[str, Choice] | None = None,
    known: Callable[[Genotype], Mapping[str, float]] = lambda genotype: {},
) -> Ranking:
    """Score the most probable architectures and others, and put them in the order of their scores.

    With budgets, those that are within none of them are not scored, and ``settings.top`` counts within each budget.

    Of architectures that are one network, the most probable one stands for all. A network with fewer layers has fewer
    edges, and so a higher probability for that alone. So the score takes the probability of the architecture, in which
    the edges of layers that are left out have their most probable candidates, and not that of the network.

    Args:
        distribution: The architectures, and how probable they are.
        score: Gives the scores of choices, each once, and remembers them.
        settings: Which architectures are scored.
        tables: The costs of the candidates by name.
        budgets: The budgets, each of one cost or of several ones together.
        named: What the search itself has found, by kind. It is scored if it is within a budget.
        known: Gives what is known of an architecture from elsewhere.

    Raises:
        ValueError: No architecture is within a budget, too many are asked for, or no loss is finite.

    Example:
        >>> from torch import nn
        >>> from advnas_lightning import MixedOp, RandomSearch
        >>> search = RandomSearch(MixedOp("edge", {"skip": nn.Identity(), "relu": nn.ReLU()}))
        >>> space = Distribution(search.space, search.log_prob, search.draw_choices, [[-0.7, -0.7]], (0,))
        >>> def score(choices):
        ...     return [Score(float(index), (float(index), float(index)), {}) for index, in choices]
        >>> [row.genotype["edge"] for row in rank_architectures(space, score, Settings())]
        ['skip', 'relu']
    """
    tables = tables or {}
    for name, number in (("top", settings.top), ("sample", settings.sample)):
        size = distribution.space.size
        if min(size, size if number is None else number) > MOST:
            raise ValueError(
                f"{name}={'all' if number is None else number}: the space has {spaced(size)} architectures, too many"
                f" to score: give a number up to {spaced(MOST)}"
            )
    plans = [CostPlan(tables, each) for each in budgets]
    for plan in plans:
        plan.refuse()
    canonical, cheapest = distribution.canonical, distribution.space.nesting.canonical

    def allows(choice: Choice, within: CostPlan | None = None) -> bool:
        each = plans if within is None else [within]
        return not each or any(plan.allows(cheapest(choice)) for plan in each)

    chosen: dict[Choice, str] = {}
    each_plan: list[CostPlan | None] = [*plans] or [None]
    for within in each_plan:
        found = distribution.probable(settings.top, within, settings.seed)
        if within is not None and not found:
            raise ValueError(_none_found(within, distribution.rows is not None))
        _add(chosen, found, "drawn" if distribution.rows is None or distribution.is_uniform else "probable")
    named = {kind: canonical(choice) for kind, choice in (named or {}).items()}
    _add(chosen, filter(allows, named.values()), "found")
    _add(chosen, filter(allows, map(canonical, distribution.scaled)), "scaled")
    if len(chosen) < distribution.space.size:
        drawn = random_choices(
            settings.sample, distribution.counts, allows=allows, canonical=canonical, seed=settings.seed
        )
        _add(chosen, drawn, "sample")
    if settings.evolution is not None:
        for within in each_plan:
            start = [choice for choice in chosen if allows(choice, within)]
            made = settings.evolution.run(
                start,
                distribution.counts,
                lambda choices: _rate(distribution, choices, score(choices)),
                allows=partial(allows, within=within),
                canonical=canonical,
                seed=settings.seed,
            )
            _add(chosen, made, "evolution")
    choices = list(chosen)
    scores = score(choices)
    if not any(math.isfinite(own.loss) for own in scores):
        raise ValueError(
            f"none of {len(scores)} architectures has a finite loss on the validation batches, so there is no order:"
            " search with a lower learning rate, or look for what is not finite in the data"
        )
    log_probs = distribution.log_prob(choices)
    values = dict(zip(choices, _rate(distribution, choices, scores), strict=True))
    of_networks = distribution.network_log_prob(choices)
    by_choice = dict(zip(choices, zip(scores, log_probs, of_networks, strict=True), strict=True))
    ordered = sorted(choices, key=lambda choice: (-values[choice], -by_choice[choice][1], choice))
    rows = []
    for rank, choice in enumerate(ordered, start=1):
        own, _, log_prob = by_choice[choice]
        genotype = distribution.space.genotype(choice)
        counted = cheapest(choice)
        costs = {kind: table.of(counted) for kind, table in tables.items()}
        rows.append(
            RankedArchitecture(
                rank, genotype, choice, values[choice], own.loss, own.halves, own.metrics, log_prob, costs,
                known(genotype), chosen[choice],
            )
        )  # fmt: skip
    trust = Trust.of(log_probs, [own.loss for own in scores], [own.halves for own in scores])
    return Ranking(rows, trust, tables, tuple(budgets), named)


def _add(chosen: dict[Choice, str], more: Iterable[Choice], source: str) -> None:
    for choice in more:
        chosen.setdefault(choice, source)


def _rate(distribution: Distribution, choices: Sequence[Choice], scores: Sequence[Score]) -> list[float]:
    return blend(distribution.log_prob(choices), [score.loss for score in scores])


def _none_found(plan: CostPlan, was_complete: bool) -> str:
    budgets = " and ".join(f"{kind}={budget:g}" for kind, budget in plan.budgets.items())
    if was_complete:
        return f"no architecture is within the budget {budgets}: raise it"
    return f"none of the draws is within the budget {budgets}: raise it, or draw more with a larger top="

"""What a ranking has found: its rows, the best within budgets, and how far to trust them."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

from advnas_lightning.cost.plan import Choice, CostPlan
from advnas_lightning.cost.table import CostTable, within
from advnas_lightning.ranking.trust import Trust
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.texts import plain, readable

__all__ = ["RankedArchitecture", "Ranking"]

SHOWN = 10  # rows of a printed table
DIGITS = 4  # of a number in it
WIDEST = 60  # signs of the column that says how an architecture differs


@dataclass(frozen=True)
class RankedArchitecture:
    """One architecture of a ranking.

    Attributes:
        rank: Its place, from 1.
        genotype: The candidate of each edge by name. Where a depth leaves out layers, edges inside have the candidates
            that are the most probable ones.
        choice: The index of each edge's candidate.
        score: The score by which it has this place, the highest of the best.
        loss: Its mean loss on the batches.
        halves: Its mean losses on two halves of the batches.
        metrics: Its metrics by name.
        log_prob: The logarithm of the probability of its network in the search.
        costs: Its costs by name, as far as they are known.
        known: What is known of it from elsewhere, such as its accuracy in a benchmark.
        source: Why it is in the ranking: ``"probable"``, ``"drawn"``, ``"found"``, ``"scaled"``, ``"sample"`` or
            ``"evolution"``.

    Example:
        >>> row = RankedArchitecture(1, Genotype({"edge": "skip"}), (0,), 1.5, 0.25, (0.2, 0.3), {}, -0.5)
        >>> row.genotype["edge"], row.loss
        ('skip', 0.25)
    """

    rank: int
    genotype: Genotype
    choice: Choice
    score: float
    loss: float
    halves: tuple[float, float]
    metrics: Mapping[str, float]
    log_prob: float
    costs: Mapping[str, float] = field(default_factory=dict)
    known: Mapping[str, float] = field(default_factory=dict)
    source: str = "probable"

    def content(self) -> dict[str, Any]:
        """The row as values for JSON, in one flat object but for the genotype."""
        return {
            "rank": self.rank,
            "genotype": dict(self.genotype),
            "score": _number(self.score),
            "loss": _number(self.loss),
            "loss_first_half": _number(self.halves[0]),
            "loss_second_half": _number(self.halves[1]),
            **{name: _number(value) for name, value in self.metrics.items()},
            **{f"cost/{name}": _number(value) for name, value in self.costs.items()},
            **{f"known/{name}": _number(value) for name, value in self.known.items()},
            "log_probability": _number(self.log_prob),
            "source": self.source,
        }


@dataclass(frozen=True)
class Ranking(Sequence[RankedArchitecture]):
    """Architectures in the order of their scores, the best first. Printed, it is a table.

    Attributes:
        rows: The architectures.
        trust: How far the losses order them.
        tables: The costs of the candidates by name.
        budgets: The budgets that were asked for, each of one cost or of several ones.
        named: The choices that the search itself has found, by kind, such as ``"argmax"``.

    Example:
        >>> rows = [RankedArchitecture(1, Genotype({"edge": "skip"}), (0,), 1.5, 0.25, (0.2, 0.3), {}, -0.5)]
        >>> ranking = Ranking(rows, Trust(1, None, None))
        >>> dict(ranking.best.genotype), len(ranking)
        ({'edge': 'skip'}, 1)
    """

    rows: Sequence[RankedArchitecture]
    trust: Trust
    tables: Mapping[str, CostTable] = field(default_factory=dict)
    budgets: Sequence[Mapping[str, float]] = ()
    named: Mapping[str, Choice] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> RankedArchitecture: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[RankedArchitecture]: ...

    def __getitem__(self, index: int | slice) -> RankedArchitecture | Sequence[RankedArchitecture]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def best(self) -> RankedArchitecture:
        """The architecture with the highest score; with budgets, of those within the first of them.

        Raises:
            ValueError: There is none within the budget.
        """
        found = self.within(self.budgets[0]) if self.budgets else self
        if not found.rows:
            raise ValueError("no architecture of the ranking is within the budget: raise it, or rank more of them")
        return found.rows[0]

    def within(self, budgets: Mapping[str, float]) -> Ranking:
        """The ranking of the architectures that cost at most so much. Their ranks are those that they have here.

        Args:
            budgets: The largest cost that is allowed, by the name of the cost and in its own unit.

        Raises:
            ValueError: The costs of such a kind are not known.

        Example:
            >>> skip, costs = Genotype({"edge": "skip"}), {"params": 10.0}
            >>> row = RankedArchitecture(1, skip, (0,), 1.5, 0.25, (0.2, 0.3), {}, -0.5, costs)
            >>> table = CostTable("params", {"edge": {"skip": 0.0, "linear": 72.0}}, 10.0)
            >>> ranking = Ranking([row], Trust(1, None, None), {"params": table})
            >>> len(ranking.within({"params": 50})), len(ranking.within({"params": 5}))
            (1, 0)
        """
        self.plan(budgets)  # refuses budgets of what is not known
        rows = [row for row in self.rows if all(row.costs[kind] <= within(most) for kind, most in budgets.items())]
        return replace(self, rows=rows, budgets=())

    def plan(self, budgets: Mapping[str, float]) -> CostPlan:
        """The costs of the ranking with budgets, which tells of any architecture whether it is within them.

        Args:
            budgets: The largest cost that is allowed, by the name of the cost and in its own unit.
        """
        return CostPlan(self.tables, budgets)

    def content(self) -> dict[str, Any]:
        """The whole ranking as values for JSON."""
        return {
            "trust": {
                "architectures": self.trust.count,
                "agreement_of_halves": self.trust.halves,
                "agreement_with_probabilities": self.trust.probability,
                "warnings": self.trust.warnings(),
            },
            "budgets": [
                {"budget": dict(budgets), "rank": found[0].rank, "genotype": dict(found[0].genotype)}
                for budgets in self.budgets
                if (found := self.within(budgets).rows)
            ],
            "architectures": [row.content() for row in self.rows],
        }

    def to_json(self) -> str:
        """The whole ranking as JSON, as ``advnas rank`` writes it."""
        return json.dumps(self.content(), indent=2)

    def table(self, most: int = SHOWN, *, also: Collection[int] = ()) -> list[list[str]]:
        """The rows as texts, the titles first.

        Args:
            most: The largest number of rows. What the search itself has found follows if it is not among them, and so
                does the best uniformly scaled architecture.
            also: The ranks of other rows that follow.

        Example:
            >>> skip, costs = Genotype({"edge": "skip"}), {"params": 363_600.0}
            >>> row = RankedArchitecture(1, skip, (0,), 1.5, 0.25, (0.2, 0.3), {"accuracy": 0.625}, -0.5, costs)
            >>> for line in Ranking([row], Trust(1, None, None), {}, named={"argmax": (0,)}).table():
            ...     print(*line)
            rank score loss accuracy params log p architecture
            1 1.500 0.25 0.625 363.6 k -0.50 argmax
        """
        named = {choice: kind.replace("_", "-") for kind, choice in reversed(list(self.named.items()))}
        ranks = {*also, *[row.rank for row in self.rows if row.source == "scaled"][:1]}
        shown = list(self.rows[:most]) + [row for row in self.rows[most:] if row.choice in named or row.rank in ranks]
        reference = self.named.get("argmax", self.rows[0].choice if self.rows else ())
        names = {
            part: list(dict.fromkeys(name for row in self.rows for name in getattr(row, part)))
            for part in ("metrics", "costs", "known")
        }
        # `part` is no name of a user, and so has no name of its own in the titles.
        titles = ["rank", "score", "loss", *names["metrics"], *names["costs"], *names["known"], "log p"]
        lines = [[*titles, "architecture"]]
        for row in shown:
            texts = [_short(row.loss), *(_short(row.metrics.get(name)) for name in names["metrics"])]
            texts += [readable(row.costs[name], DIGITS) if name in row.costs else "" for name in names["costs"]]
            texts += [_short(row.known.get(name)) for name in names["known"]]
            lines.append(
                [str(row.rank), f"{row.score:z.3f}", *texts, f"{row.log_prob:.2f}", self._words(row, named, reference)]
            )
        return lines

    def _words(self, row: RankedArchitecture, named: Mapping[Choice, str], reference: Choice) -> str:
        """How an architecture differs from the arg max; or what it is, if the search has found it or it is scaled."""
        if row.choice in named or row.source == "scaled":
            return named.get(row.choice, "uniformly scaled")
        edges = zip(row.genotype.items(), row.choice, reference, strict=True)
        text = ", ".join(plain(f"{edge}: {name}") for (edge, name), index, other in edges if index != other)
        return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"

    def __str__(self) -> str:
        return columns(self.table())


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Rows of texts in columns, all of them to the right but for the last one.

    Example:
        >>> print(columns([["rank", "architecture"], ["1", "argmax"]]))
        rank  architecture
           1  argmax
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([*(text.rjust(width) for text, width in zip(line[:-1], widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.{DIGITS}g}"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None

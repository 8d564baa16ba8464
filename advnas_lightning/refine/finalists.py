"""The finalists of a search: what it has found, what a ranking has on top, and some draws."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from advnas_lightning.cost.plan import CostPlan
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.ranking.of_search import distribution_of
from advnas_lightning.reading import Unreadable, read_json
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.texts import shortened
from advnas_lightning.validate import check_int

__all__ = ["check_finalists", "finalists_in", "finalists_of"]


def check_finalists(given: Iterable[Any]) -> list[Genotype]:
    """Refuse what is no architecture.

    Args:
        given: What should be the architectures.

    Raises:
        ValueError: One of them is none.

    Example:
        >>> check_finalists(Genotype({"edge": "skip"}))
        Traceback (most recent call last):
            ...
        ValueError: a finalist is a Genotype, not 'edge': give a list of them, such as [search.genotype()] or \
[row.genotype for row in ranking]
    """
    found = list(given)
    for each in found:
        if not isinstance(each, Genotype):
            raise ValueError(
                f"a finalist is a Genotype, not {shortened(repr(each), 80)}: give a list of them, such as"
                " [search.genotype()] or [row.genotype for row in ranking]"
            )
    return found


def finalists_of(
    search: SearchStrategy,
    *,
    ranked: Iterable[Genotype] = (),
    draws: int = 0,
    seed: int = 0,
    plan: CostPlan | None = None,
) -> dict[Genotype, str]:
    """The architectures between which trainings of their own are to decide, each network once, and who proposes it.

    They are the arg max and the process-best architecture of the search, then those of a ranking, then draws of the
    search's distribution p, all in this order. With budgets, those that are over them are left out, and the most
    probable one within them is the first.

    Args:
        search: The search.
        ranked: The architectures on top of a ranking, the best first.
        draws: The number of draws.
        seed: The seed of the draws. The search's own next draws stay the same.
        plan: The costs and the budgets, if there are any.

    Raises:
        ValueError: ``draws`` is no whole number from 0 on, or ``ranked`` has something else than genotypes.

    Example:
        >>> from torch.optim import Adam
        >>> from torch import nn
        >>> from advnas_lightning import AdvantageNAS, MixedOp
        >>> edge = MixedOp("edge", {"skip": nn.Identity(), "tanh": nn.Tanh(), "relu": nn.ReLU()})
        >>> search = AdvantageNAS(edge, architecture_optimizer=Adam)
        >>> ranked = [Genotype({"edge": name}) for name in ("skip", "tanh", "relu")]
        >>> found = finalists_of(search, ranked=ranked)
        >>> next(iter(found.values())), len(found)
        ('argmax', 3)
    """
    check_int("draws", draws, least=0)
    distribution, space = distribution_of(search), search.space
    within = [] if plan is None else distribution.probable(1, plan, seed)
    given = [(space.genotype(choice), "most probable within the budgets") for choice in within]
    given.append((search.genotype(), "argmax"))
    if search.process_best is not None:
        given.append((search.process_best, "process_best"))
    given += [(genotype, f"ranked {place}") for place, genotype in enumerate(check_finalists(ranked), start=1)]
    drawn = search.draw_choices(draws, seed)
    given += [(space.genotype(choice), f"draw {place}") for place, choice in enumerate(drawn, start=1)]
    found: dict[Genotype, str] = {}
    for genotype, by in given:
        if plan is None or plan.allows(space.nesting.canonical(space.choice(genotype))):
            found.setdefault(distribution.canonical_genotype(genotype), by)
    return found


def finalists_in(path: str | Path) -> dict[Genotype, str]:
    """The architectures in a JSON file with a list of them, each once, and where in the list each one is, from 1.

    Args:
        path: The file. Each architecture is written as ``{edge: candidate}``.

    Raises:
        ValueError: There is no such file, or it has no such list.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "architectures.json")
        >>> _ = path.write_text('[{"edge": "skip"}, {"edge": "tanh"}]')
        >>> list(finalists_in(path).values())
        ['listed 1', 'listed 2']
    """
    try:
        content = read_json(Path(path))
        if not isinstance(content, list) or not content:
            raise Unreadable("it is no list of architectures")
        found: dict[Genotype, str] = {}
        for place, edges in enumerate(content, start=1):
            if not isinstance(edges, dict):
                raise Unreadable(f"entry {place} is no architecture of the form {{edge: candidate}}")
            found.setdefault(Genotype(edges), f"listed {place}")
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"finalists={path} cannot be read: {error}") from None
    return found

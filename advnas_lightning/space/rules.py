"""Choices in a network that was written without any: rules put them there, and a tree shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from rich.console import Console
from rich.tree import Tree
from torch import nn

from advnas_lightning.space.elastic.rules.widths import Widths
from advnas_lightning.space.fast_paths import switch_off_fast_paths
from advnas_lightning.space.mixed_op import MixedOp, check_candidates, mixed_ops
from advnas_lightning.space.patterns import matches, widened
from advnas_lightning.space.places import Place, check_place, places, put
from advnas_lightning.space.search_space import SearchSpace
from advnas_lightning.texts import listed, plain, rich

Rule = type[nn.Module] | str | tuple[type[nn.Module], str]
MakeCandidates = Callable[[Any], Mapping[str, nn.Module] | None]


@dataclass(frozen=True, eq=False)
class Replacements(Mapping[str, tuple[str, ...]]):
    """The modules that were replaced, as a mapping from qualified name to candidates' names.

    This is what :func:`~advnas_lightning.make_searchable` returns. ``str()`` of it is a table.

    Attributes:
        candidates: The candidates' names by the qualified name of each place.
        edges: The edge's name by the qualified name of each place.

    Example:
        >>> print(Replacements({"layer.1": ("relu", "gelu")}, {"layer.1": "edge"}))
        module   edge  candidates
        layer.1  edge  relu, gelu
    """

    candidates: Mapping[str, tuple[str, ...]]
    edges: Mapping[str, str]

    def __getitem__(self, name: str) -> tuple[str, ...]:
        return self.candidates[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.candidates)

    def __len__(self) -> int:
        return len(self.candidates)

    def __str__(self) -> str:
        rows = [("module", "edge", "candidates")]
        rows += [(plain(name), plain(self.edges[name]), listed(names)) for name, names in self.items()]
        wide, wider = (max(len(row[column]) for row in rows) for column in (0, 1))
        return "\n".join(f"{name:{wide}}  {edge:{wider}}  {names}" for name, edge, names in rows)


def make_searchable(
    model: nn.Module,
    rules: Mapping[Rule, MakeCandidates] | Widths,
    *,
    share: Callable[[str, nn.Module], str] | None = None,
) -> Replacements:
    """Replace modules of a network by choices, in place.

    Each module that a rule matches becomes ``MixedOp(edge, candidates)``, at all of its places if it has several. There
    are no further matches inside replaced modules and inside MixedOps that exist already. The choice also takes the
    module's place in lists, dicts and functions that other modules keep, and its hooks after the pass.

    The network must use the module by calling it, since a choice has no weights; plain values such as ``in_features``
    can be read, see :class:`MixedOp`. PyTorch's transformer layers that contain a choice run without their fast path,
    which would bypass it, while they are searched.

    Args:
        model: The network.
        rules: The rules, each from a kind of module to a function that returns a matching module's candidates by name,
            or ``None`` to leave the module as it is. The kind is a module type, which includes its subclasses; a
            pattern of qualified names such as ``"layer3.*.conv2"``; or a pair of both, which matches where both do,
            such as ``(nn.Conv2d, "layer3.**")``. Or :func:`~advnas_lightning.widths`, which makes sizes of the network
            elastic. In a pattern ``*``, ``?`` and ``[34]`` stand for characters between
            two dots, and ``**`` for any number of whole parts. The module itself may be among its candidates; it then
            keeps its weights.
        share: A function that names the edge of a replaced module, given the module's qualified name and the module.
            Modules with the same name share one choice. By default every module is an edge of its own, with its
            qualified name. Of ``widths`` it is given the name that the edge would have, and the block.

    Returns:
        The candidates' names by qualified name.

    Raises:
        ValueError: There is no rule; a rule replaces nothing or matches the network itself; two rules match one module;
            candidates are invalid or contain a replaced place; the module around a place does not call what stands
            there; or one edge has different candidates. The network is then unchanged.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> print(make_searchable(net, {nn.ReLU: lambda relu: {"relu": relu, "gelu": nn.GELU()}}))
        module  edge  candidates
        1       1     relu, gelu
        >>> net = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> def skippable(linear):
        ...     same = linear.in_features == linear.out_features
        ...     return {"linear": linear, "skip": nn.Identity()} if same else None
        >>> print(make_searchable(net, {nn.Linear: skippable, (nn.ReLU, "0.*"): lambda _: {"silu": nn.SiLU()}}))
        module  edge  candidates
        0.0     0.0   linear, skip
        0.1     0.1   silu
        1       1     linear, skip
    """
    if isinstance(rules, Widths):
        rows = [(each.found.members[0].name, each) for each in rules.put(model, share)]
        switch_off_fast_paths(model)
        return Replacements({name: tuple(each.sizes) for name, each in rows}, {name: each.edge for name, each in rows})
    matched = _match(model, rules)
    found, plan = _plan(model, rules, matched, share)
    ops: dict[int, MixedOp] = {}
    for place in found:
        if id(place.module) not in ops:
            edge, candidates = plan[id(place.module)]
            ops[id(place.module)] = op = MixedOp(edge, candidates)
            op.original = next((name for name, each in candidates.items() if each is place.module), None)
            if not place.module.training:  # a part in evaluation mode stays in it
                op.eval()
    put(model, found, ops)
    switch_off_fast_paths(model)
    made = {place.name: ops[id(place.module)] for place in found}
    return Replacements({name: op.names for name, op in made.items()}, {name: op.name for name, op in made.items()})


def choices(model: nn.Module) -> None:
    """Print a network's search space as a tree of edges and candidates, with the number of architectures.

    The parameters of a candidate are counted over all modules that share the edge.

    Args:
        model: The network with MixedOps.

    Raises:
        ValueError: The network has no choice, see :class:`SearchSpace`.

    Example:
        >>> choices(nn.Sequential(*(MixedOp("a", {"linear": nn.Linear(9, 9), "skip": nn.Identity()}) for _ in "12")))
        Sequential
        └── a, shared by 2 modules
            ├── linear: 180 parameters
            └── skip: 0 parameters
        1 edge, 2 architectures
    """
    space = SearchSpace(model)
    sharing: dict[str, list[MixedOp]] = {edge: [] for edge in space.edges}
    for op in mixed_ops(model):
        sharing[op.name].append(op)
    tree = Tree(rich(type(model).__name__))
    for edge, ops in sharing.items():
        branch = tree.add(rich(edge + (f", shared by {len(ops)} modules" if len(ops) > 1 else "")))
        for name, zero in zip(ops[0].names, ops[0].zero_ops, strict=True):
            parts = {
                weight: part.numel()
                for op in ops
                for weight, part in op.parameter_slices(ops[0].names.index(name)).items()
            }
            count = _spaced(sum(parts.values()))  # of a shared parameter once
            branch.add(rich(f"{name}: {count} parameters{', zero operation' if zero else ''}"))
    console = Console(highlight=False)
    console.print(tree)
    powers = Counter(len(row) for row in space.candidates if len(row) > 1)
    product = " × ".join(f"{base}^{n}" if n > 1 else str(base) for base, n in sorted(powers.items()))
    size = product if product.isdigit() else f"{product} = {_spaced(space.size)}"
    console.print(f"{len(space)} edge{'s' if len(space) > 1 else ''}, {size} architectures")


def _matching(rule: Rule, everywhere: Sequence[Place]) -> list[Place]:
    """The places that a rule matches; a pattern that is a name itself matches that name alone."""
    if isinstance(rule, tuple):
        kind, pattern = rule
        return [place for place in _matching(pattern, everywhere) if isinstance(place.module, kind)]
    if isinstance(rule, str):
        return [place for place in everywhere if place.name == rule] or [
            place for place in everywhere if matches(place.name, rule)
        ]
    return [place for place in everywhere if isinstance(place.module, rule)]


def _is_type(rule: Any) -> bool:
    return isinstance(rule, type) and issubclass(rule, nn.Module)


def _match(model: nn.Module, rules: Mapping[Rule, MakeCandidates]) -> dict[int, list[Rule]]:
    """The rules that match each module, by the module's id, since a module may have several names."""
    if not rules:
        raise ValueError("rules is empty: give a function to candidates for a module type or a pattern of names")
    everywhere = list(places(model))
    matched: dict[int, list[Rule]] = {}
    for rule in rules:
        is_pair = isinstance(rule, tuple) and len(rule) == 2 and _is_type(rule[0]) and isinstance(rule[1], str)
        if not (isinstance(rule, str) or _is_type(rule) or is_pair):
            raise ValueError(
                f"{rule!r} is no rule: use a module type, a pattern of names such as 'layer3.*.conv2', or a pair of"
                " both such as (nn.Conv2d, 'layer3.**')"
            )
        if not callable(rules[rule]):
            raise ValueError(
                f"the rule {_show(rule)} has a {type(rules[rule]).__name__}: give a function of the module that returns"
                " its candidates by name, or None"
            )
        if rule == "" or (isinstance(rule, type) and isinstance(model, rule)):
            raise ValueError(f"the rule {_show(rule)} matches the network itself: use a pattern of names inside it")
        modules = {id(place.module) for place in _matching(rule, everywhere)}
        if not modules:
            raise ValueError(_no_match(rule, everywhere))
        for module in modules:
            matched.setdefault(module, []).append(rule)
    return matched


def _plan(
    model: nn.Module,
    rules: Mapping[Rule, MakeCandidates],
    matched: Mapping[int, list[Rule]],
    share: Callable[[str, nn.Module], str] | None,
) -> tuple[list[Place], dict[int, tuple[str, Mapping[str, nn.Module]]]]:
    """Find the places to replace, and the arguments of each new MixedOp by the id of the module that it replaces."""
    found: list[Place] = []
    plan: dict[int, tuple[str, Mapping[str, nn.Module]]] = {}
    closed: set[int] = set()  # the modules that are replaced; it grows while the places are walked
    declined: set[int] = set()
    edges = {op.name: op.names for op in mixed_ops(model)}
    for place in places(model, closed):
        key = id(place.module)
        if key not in matched or key in declined:
            continue
        if key not in plan:
            rule, *others = matched[key]
            if others:
                both = " and ".join(map(_show, matched[key]))
                raise ValueError(f"{place.name!r} is matched by {both}: narrow the rules, so that one is left")
            candidates = rules[rule](place.module)
            if candidates is None:
                declined.add(key)
                continue
            check_candidates(f"{place.name!r} (rule {_show(rule)})", candidates)
            plan[key] = _edge_name(place, share), candidates
            _check_edge(place, *plan[key], edges)
            closed.add(key)
        check_place(place, plan[key][1])
        found.append(place)
    _check_use(rules, matched, plan, declined, model)
    parents = {id(place.parent): place.name for place in found}
    for place in found:
        for name, candidate in plan[id(place.module)][1].items():
            for inner in candidate.modules():
                if id(inner) in parents:
                    raise ValueError(
                        f"candidate {name!r} of {place.name!r} holds {parents[id(inner)]!r}, which is replaced too:"
                        " nested choices are not supported; narrow a rule"
                    )
    return found, plan


def _edge_name(place: Place, share: Callable[[str, nn.Module], str] | None) -> str:
    edge: Any = place.name if share is None else share(place.name, place.module)
    if not isinstance(edge, str) or not edge:
        raise ValueError(f"share gives {place.name!r} the edge name {edge!r}: return a text")
    return edge


def _check_edge(
    place: Place, edge: str, candidates: Mapping[str, nn.Module], edges: dict[str, tuple[str, ...]]
) -> None:
    """Refuse candidates that differ from those of the same edge at another place."""
    names = edges.setdefault(edge, tuple(candidates))
    if names != tuple(candidates):
        raise ValueError(
            f"{place.name!r} has the candidates {listed(candidates)}, but its edge {edge!r} has"
            f" {listed(names)}: give it another name with share, or the same candidates in the same order"
        )


def _check_use(
    rules: Mapping[Rule, MakeCandidates],
    matched: Mapping[int, list[Rule]],
    plan: Container[int],
    declined: Container[int],
    model: nn.Module,
) -> None:
    """Refuse a rule that matches modules, but replaces none."""
    for rule in rules:
        own = {key for key, several in matched.items() if rule in several}
        if any(key in plan for key in own):
            continue
        names = {place.name: id(place.module) in declined for place in places(model) if id(place.module) in own}
        for name, is_declined in names.items():
            if not is_declined:
                raise ValueError(
                    f"the rule {_show(rule)} replaces nothing: {name!r} lies inside a module that is replaced"
                )
        raise ValueError(
            f"the rule {_show(rule)} replaces nothing: its function returns None for each module that it matches:"
            f" {', '.join(list(names)[:3])}{', …' if len(names) > 3 else ''}"
        )


def _no_match(rule: Rule, everywhere: Sequence[Place]) -> str:
    """The message for a rule that matches nothing."""
    if isinstance(rule, tuple):
        for part in rule:
            if not _matching(part, everywhere):
                return _no_match(part, everywhere)
        kind, pattern = rule
        place = _matching(kind, everywhere)[0]
        return (
            f"the rule {_show(rule)} matches no module of the network: {pattern!r} has no {kind.__name__}, but"
            f" {place.name!r} is one"
        )
    message = f"the rule {_show(rule)} matches no module of the network"
    if isinstance(rule, str):
        names = [place.name for place in everywhere]
        wider = widened(rule, names)
        if wider is not None and wider != rule:
            return f"{message}: * does not match dots, ** does; did you mean {wider!r}?"
    else:
        names = list(dict.fromkeys(type(place.module).__name__ for place in everywhere))
    near = get_close_matches(rule if isinstance(rule, str) else rule.__name__, names, cutoff=0.3) or names[:3]
    return f"{message}: it has {', '.join(near) or 'none'}, …"


def _show(rule: Rule) -> str:
    if isinstance(rule, tuple):
        return f"({', '.join(_show(part) for part in rule)})"
    return repr(rule) if isinstance(rule, str) else rule.__name__


def _spaced(number: int) -> str:
    """A number with spaces between its thousands; a very large one in scientific notation."""
    return f"{number:,}".replace(",", " ") if number < 10**15 else f"{Decimal(number):.1e}"

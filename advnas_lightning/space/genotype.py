"""The discrete result of a search, and the probabilities of all candidates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from torch import nn

from advnas_lightning.reading import Unreadable, parse_json, read_json
from advnas_lightning.runs import GENOTYPE, in_run
from advnas_lightning.space.copying import copy_network
from advnas_lightning.space.elastic.following import follow
from advnas_lightning.space.fast_paths import restore_fast_paths, switch_off_fast_paths
from advnas_lightning.space.mixed_op import CHOSEN, mixed_ops
from advnas_lightning.texts import listed, plain, shortened
from advnas_lightning.validate import check_one_of

SELECTIONS = ("argmax", "process_best")  # the kinds that a search finds by itself
LATER = ("ranked", "refined")  # those that a command adds to the file of a finished search
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Genotype(Mapping[str, str]):
    """The discrete result of a search: the name of one candidate for each edge.

    It is hashable, and can be written to JSON and read from it.

    Args:
        edges: The candidate's name by the edge's name.

    Example:
        >>> genotype = Genotype({"edge": "skip"})
        >>> genotype["edge"], Genotype.from_json(genotype.to_json()) == genotype
        ('skip', True)
        >>> from torch import nn
        >>> from advnas_lightning import MixedOp
        >>> net = nn.Sequential(MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()}))
        >>> genotype.apply(net)
        Sequential(
          (0): Identity()
        )
    """

    edges: Mapping[str, str]
    _pairs: tuple[tuple[str, str], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.edges, Mapping):
            raise ValueError(f"a genotype maps edge names to candidate names, not {self.edges!r}")
        for edge, name in self.edges.items():
            if not isinstance(edge, str) or not isinstance(name, str):
                raise ValueError(f"a genotype maps edge names to candidate names, not {edge!r} to {name!r}")
        object.__setattr__(self, "edges", dict(self.edges))
        object.__setattr__(self, "_pairs", tuple(sorted(self.edges.items())))

    def __getitem__(self, edge: str) -> str:
        return self.edges[edge]

    def __iter__(self) -> Iterator[str]:
        return iter(self.edges)

    def __len__(self) -> int:
        return len(self.edges)

    def __hash__(self) -> int:
        return hash(self._pairs)

    def to_json(self) -> str:
        """The genotype as a JSON object ``{edge: candidate, …}``."""
        return json.dumps(self.edges)

    @classmethod
    def from_json(cls, text: str) -> Genotype:
        """Read a JSON object ``{edge: candidate, …}``.

        Raises:
            ValueError: The text is not a JSON object of strings.
        """
        try:
            edges = parse_json(text)
        except Unreadable as error:
            raise ValueError(f"not a genotype: {error}") from None
        if not isinstance(edges, dict):
            raise ValueError(f"a genotype is a JSON object {{edge: candidate}}, not {shortened(repr(text), 80)}")
        return cls(edges)

    @classmethod
    def from_nasbench201(cls, text: str) -> Genotype:
        """Read NAS-Bench-201's notation: for each node j, the operation on each edge ``i->j``, followed by ``~i``.

        The cell may have any number of nodes. The names of the operations are not checked before the genotype is used
        with a network.

        Raises:
            ValueError: A part is malformed; the message names it.

        Example:
            >>> dict(Genotype.from_nasbench201("|skip_connect~0|+|none~0|nor_conv_3x3~1|"))
            {'0->1': 'skip_connect', '0->2': 'none', '1->2': 'nor_conv_3x3'}
        """
        edges: dict[str, str] = {}
        for target, node in enumerate(text.strip().split("+"), start=1):
            tokens = node.removeprefix("|").removesuffix("|").split("|")
            if node != f"|{'|'.join(tokens)}|" or len(tokens) != target:
                raise _malformed(text, node, f"node {target} has {target} operation(s), between bars: '|op~0|…|'")
            for source, token in enumerate(tokens):
                name, _, end = token.rpartition("~")
                if not name.isidentifier() or end != str(source):
                    raise _malformed(text, token, f"edge {source}->{target} is written 'operation~{source}'")
                edges[f"{source}->{target}"] = name
        return cls(edges)

    def to_nasbench201(self) -> str:
        """Write NAS-Bench-201's notation: the inverse of :meth:`from_nasbench201`.

        Raises:
            ValueError: The edges are not the edges ``i->j``, 0 ≤ i < j, of a cell.
        """
        nodes = [
            [f"{self.get(f'{source}->{target}', '')}~{source}" for source in range(target)]
            for target in range(1, len(self) + 1)
            if f"0->{target}" in self
        ]
        text = "+".join(f"|{'|'.join(tokens)}|" for tokens in nodes)
        try:
            complete = Genotype.from_nasbench201(text) == self
        except ValueError:
            complete = False
        if not complete:
            raise ValueError(f"the edges {listed(self)} are not those of a cell: 0->1, 0->2, 1->2, …")
        return text

    @classmethod
    def read(cls, source: str | Path, select: str | None = None) -> Genotype:
        """Read a genotype as a user would write it down: a NAS-Bench-201 cell, JSON, or the path of a file.

        Args:
            source: A text ``|op~0|+…|`` or ``{"edge": "candidate", …}``, or a path.
            select: The genotype of a run's file to read, see :meth:`load`.

        Raises:
            ValueError: The text or the file is malformed.

        Example:
            >>> Genotype.read("|none~0|") == Genotype.read('{"0->1": "none"}')
            True
        """
        text = str(source).strip()
        if text.startswith(("|", "{")):
            if select is not None:
                raise ValueError(f"{text} is one genotype, so select={select!r} has nothing to choose: leave it out")
            return cls.from_nasbench201(text) if text.startswith("|") else cls.from_json(text)
        return cls.load(source, select)

    @classmethod
    def load(cls, path: str | Path, select: str | None = None) -> Genotype:
        """Read a run's ``genotype.json``, or a file that holds one genotype alone.

        Args:
            path: The path of the file, or the folder of a run.
            select: The genotype of the run to read: ``"argmax"`` or ``"process_best"``, or one that a command has
                added, ``"ranked"`` or ``"refined"``. Without it the one that the run selected is read.

        Raises:
            ValueError: The file is missing or holds no genotype, or the run has none of that kind.
        """
        path = in_run(path, GENOTYPE)
        if not path.is_file():
            raise ValueError(f"no genotype file at {path}: give a run's folder, its genotype.json, or a cell |op~0|+…")
        try:
            content = read_json(path)
        except Unreadable as error:
            raise ValueError(f"{path} is not a genotype file: {error}") from None
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not a genotype file: it holds no JSON object")
        is_run = content.get("selected") in SELECTIONS or not all(isinstance(value, str) for value in content.values())
        if "selected" not in content or not is_run:  # an edge may be called selected
            if select is not None:
                raise ValueError(
                    f"{path} holds one genotype alone, so select={select!r} has nothing to choose: leave it out"
                )
            return cls(content)
        select = content["selected"] if select is None else select
        check_one_of("select", select, (*SELECTIONS, *LATER))
        if content.get(select) is None:
            kinds = [kind for kind in (*SELECTIONS, *LATER) if content.get(kind) is not None]
            raise ValueError(
                f"{path} has no {select} genotype: choose {' or '.join(kinds) or 'another file'} with select="
            )
        return cls(content[select])

    def apply(self, model: Network) -> Network:
        """A copy of ``model`` in which every MixedOp is replaced by a copy of its chosen candidate.

        The copy keeps the chosen candidates' weights and contains no MixedOp. Elastic modules are cut to plain ones of
        the chosen sizes. Tensors with a graph that modules keep, such as the attention map of the last pass, are copied
        without it. Hooks on modules and parameters go with the copy, but for those on parameters that are cut. What
        cannot be copied, such as an open file, is shared, and a warning names it.

        An edge returns tensors of its own, and a plain ``nn.Identity`` returns its input: where a network changes that
        in place and uses the input again, the copy computes something else. A search refuses such a network.

        Raises:
            ValueError: The model has no edge; an edge of one is missing in the other; the model does not have the
                candidate; or an elastic module follows no edge.
        """
        mixed = mixed_ops(model)
        if not mixed:
            raise ValueError(
                f"{type(model).__name__} has no MixedOp: give a network with the choices of the search, after"
                " make_searchable if rules make them"
            )
        check_genotype(self, {op.name: op.names for op in mixed})
        follow(model, {op.name: op for op in mixed})
        switch_off_fast_paths(model)  # where no search has done so; the copy has them again where they are right
        network, copies = copy_network(model, {CHOSEN: self})
        for op in mixed:
            if op.device_anchor is not None and id(op) in copies:
                copies[id(op)].to(op.device_anchor.device)
        restore_fast_paths(network)
        return network


class Probabilities(dict[str, dict[str, float]]):
    """The probability of every candidate by edge. Printed, it is a table with the most probable candidates first.

    Example:
        >>> print(Probabilities({"input->1": {"skip": 0.25, "linear": 0.75}, "1->2": {"skip": 1.0}}))
        input->1  linear 0.750  skip 0.250
        1->2      skip 1.000
    """

    def __str__(self) -> str:
        width = max((len(plain(edge)) for edge in self), default=0)
        return "\n".join(
            f"{plain(edge):<{width}}  "
            + "  ".join(f"{plain(name)} {p:.3f}" for name, p in sorted(row.items(), key=lambda item: -item[1]))
            for edge, row in self.items()
        )


def _malformed(text: str, part: str, rule: str) -> ValueError:
    return ValueError(f"{text!r} is no NAS-Bench-201 cell because of {part!r}: {rule}")


def check_genotype(genotype: Genotype, candidates: Mapping[str, Sequence[str]]) -> None:
    """Refuse a genotype that does not choose one of the candidates for each edge.

    Args:
        genotype: The genotype to check.
        candidates: The candidates' names by the name of the edge.

    Raises:
        ValueError: An edge is missing or unknown, or has no such candidate.

    Example:
        >>> check_genotype(Genotype({"edge": "skip"}), {"edge": ("linear",)})
        Traceback (most recent call last):
            ...
        ValueError: edge 'edge' has no candidate 'skip': it has linear
    """
    for edge, names in candidates.items():
        if edge not in genotype:
            raise ValueError(f"the genotype has no edge {edge!r}: it needs {listed(candidates)}")
        if genotype[edge] not in names:
            raise ValueError(f"edge {edge!r} has no candidate {genotype[edge]!r}: it has {listed(names)}")
    for edge in genotype:
        if edge not in candidates:
            raise ValueError(f"the network has no edge {edge!r} of the genotype: it has {listed(candidates)}")

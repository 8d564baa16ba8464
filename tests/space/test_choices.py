"""The tree of a network's choices."""

from __future__ import annotations

import pytest
from torch import nn

from advnas_lightning import MixedOp, choices


class Zero(nn.Module):
    is_zero_op = True


def test_the_tree_shows_edges_candidates_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    tied = nn.Linear(30, 40)
    model = nn.Sequential(
        MixedOp("a[b]", {"linear": tied, "zero": Zero()}),
        MixedOp("c", {"skip": nn.Identity(), "linear": nn.Linear(2, 2), "zero": Zero()}),
        MixedOp("a[b]", {"linear": tied, "zero": Zero()}),
        MixedOp("a[b]", {"linear": nn.Linear(1, 1), "zero": Zero()}),
        MixedOp("only", {"skip": nn.Identity()}),
    )
    choices(model)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "Sequential",
        "├── a[b], shared by 3 modules",
        "│   ├── linear: 1 242 parameters",
        "│   └── zero: 0 parameters, zero operation",
        "├── c",
        "│   ├── skip: 0 parameters",
        "│   ├── linear: 6 parameters",
        "│   └── zero: 0 parameters, zero operation",
        "└── only",
        "    └── skip: 0 parameters",
        "3 edges, 2 × 3 = 6 architectures",
    ]


@pytest.mark.parametrize(
    ("sizes", "line"),
    [
        ([4] * 6, "6 edges, 4^6 = 4 096 architectures"),
        ([3], "1 edge, 3 architectures"),
        ([1, 3, 2, 3, 1], "5 edges, 2 × 3^2 = 18 architectures"),
        ([10] * 40, "40 edges, 10^40 = 1.0e+40 architectures"),
    ],
    ids=["power", "one", "ragged", "huge"],
)
def test_the_size_of_the_space_is_written_out(sizes: list[int], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    choices(nn.Sequential(*(MixedOp(f"{e}", {f"x{j}": nn.Identity() for j in range(n)}) for e, n in enumerate(sizes))))
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_a_network_without_choices_has_no_tree() -> None:
    with pytest.raises(ValueError, match="no MixedOp"):
        choices(nn.Linear(2, 2))

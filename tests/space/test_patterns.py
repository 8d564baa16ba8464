"""Patterns of names: a star stays between two dots, two stars do not."""

from __future__ import annotations

import pytest

from advnas_lightning.space.patterns import matches, widened

NAMES = ["conv", "layer3", "layer3.conv", "layer3.0", "layer3.0.conv", "layer3.0.bn.conv1", "Layer3.conv", "layer10.0"]


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("conv", ["conv"]),
        ("*", ["conv", "layer3"]),
        ("*.conv", ["layer3.conv", "Layer3.conv"]),
        ("layer3.*", ["layer3.conv", "layer3.0"]),
        ("layer3.*.conv", ["layer3.0.conv"]),
        ("layer?", ["layer3"]),
        ("layer?.0", ["layer3.0"]),
        ("layer*.0", ["layer3.0", "layer10.0"]),
        ("[lL]ayer3.conv", ["layer3.conv", "Layer3.conv"]),
        ("layer[!0-2].conv", ["layer3.conv"]),
        ("layer3[!x]conv", []),  # which is a dot
        ("layer3?conv", []),
        ("layer3*conv", []),
        ("**", NAMES),
        ("**.conv", ["conv", "layer3.conv", "layer3.0.conv", "Layer3.conv"]),
        ("layer3.**", ["layer3.conv", "layer3.0", "layer3.0.conv", "layer3.0.bn.conv1"]),
        ("layer3.**.conv*", ["layer3.conv", "layer3.0.conv", "layer3.0.bn.conv1"]),
        ("**.0.**", ["layer3.0.conv", "layer3.0.bn.conv1"]),
        ("**.**", NAMES),
        ("layer**", ["layer3"]),  # within a part it is as one star
        ("", []),
        ("conv.", []),
        (".conv", []),
    ],
)
def test_a_pattern_matches_part_by_part(pattern: str, matched: list[str]) -> None:
    assert [name for name in NAMES if matches(name, pattern)] == matched


def test_many_stars_take_no_time() -> None:
    assert not matches(".".join("a" * 12), ".".join(["**", "*"] * 6 + ["b"]))


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("*.bn.conv1", "**.bn.conv1"),
        ("*conv1", "**.*conv1"),
        ("layer*.conv1", "layer*.**.conv1"),
        ("layer3.*.conv1", "layer3.**.conv1"),
        ("layer4.*.conv1", None),
        ("nothing", None),
    ],
)
def test_what_was_probably_meant(pattern: str, meant: str | None) -> None:
    assert widened(pattern, NAMES) == meant

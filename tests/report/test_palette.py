"""The strategies' colours, seen with every kind of colour vision."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from advnas_lightning.report.palette import STRATEGIES, styles

# Machado, Oliveira, Fernandes (2009): what remains of a linear colour without one kind of cone.
SIGHTS = {
    "all cones": np.eye(3),
    "no long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no middle": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
LIGHT = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)


def linear(colour: str) -> NDArray[np.float64]:
    channels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled = LIGHT @ rgb.clip(0, 1) / [0.95047, 1.0, 1.08883]
    x, y, z = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_no_two_strategies_look_alike_to_anyone() -> None:
    looks = styles(name for name in STRATEGIES if name != "fixed")  # it is in no figure
    for sight in SIGHTS.values():
        seen = {name: lab(np.array(sight) @ linear(look.colour)) for name, look in looks.items()}
        for one, other in itertools.combinations(seen, 2):
            assert np.linalg.norm(seen[one] - seen[other]) > 12, (one, other)  # 2 can just be told apart
    assert len({look.marker for look in looks.values()}) == len(looks)


def test_strategies_of_ones_own_look_like_no_other() -> None:
    looks = styles([*STRATEGIES, "mine", "yours", "ours", "theirs"])
    assert list(looks) == [*STRATEGIES, "mine", "ours", "theirs", "yours"]
    assert [looks[name].title for name in ("mine", "yours")] == ["mine", "yours"]
    for one, other in itertools.combinations(looks.values(), 2):
        assert one.colour != other.colour
    assert not {look.marker for look in STRATEGIES.values()} & {looks["mine"].marker}


def test_every_colour_can_be_seen_on_white() -> None:
    for look in STRATEGIES.values():
        # WCAG asks 3 of graphics, which so many colours that differ cannot all have: each line has its marks as well.
        assert 1.05 / (LIGHT[1] @ linear(look.colour) + 0.05) > 1.9

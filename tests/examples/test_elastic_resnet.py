"""The example of elastic channels: the widest network is torchvision's, and the program compares at equal cost."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advnas_lightning import Genotype, SearchSpace
from advnas_lightning.cost import count_macs

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(EXAMPLES)
    return runpy.run_path(str(EXAMPLES / "elastic_resnet.py"))


def test_the_widest_network_is_the_plain_one_and_a_narrow_one_has_a_share_of_each_block(
    example: dict[str, Any],
) -> None:
    torch.manual_seed(0)
    plain = example["Classifier"](3, steps=10)
    torch.manual_seed(0)
    searched = example["make_elastic"](example["Classifier"](3, steps=10))
    space = SearchSpace(searched)
    assert space.size == len(example["SHARES"]) ** 8
    images = torch.randn(2, 3, 32, 32)
    for index, share in ((0, 0.25), (-1, 1.0)):
        found = Genotype({edge: names[index] for edge, names in zip(space.edges, space.candidates, strict=True)})
        network = found.apply(searched)
        for name, module in network.named_modules():
            if name.endswith("conv1") and "layer" in name:
                assert module.out_channels == share * plain.get_submodule(name).out_channels
        if share == 1:
            assert torch.equal(network.eval().net(images), plain.eval().net(images))
    # The stem; the blocks on 8, 4, 2 and 1 pixels a side, of which the first of a stage reads fewer channels and has a
    # shortcut from the second stage on; the head.
    macs = 16 * 16 * 49 * 3 * 64 + 512 * 3
    for side, width in ((8, 64), (4, 128), (2, 256), (1, 512)):
        reads = width if side == 8 else width // 2
        shortcut = 0 if side == 8 else reads * width
        macs += side * side * (9 * (reads + 3 * width) * width + shortcut)
    assert count_macs(plain.net, images[:1]) == macs


@pytest.mark.slow
def test_the_program_compares_networks_of_equal_cost(
    example: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example["main"](["--quick", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "sizes.json").read_text())
    printed, searched = capsys.readouterr().out, example["make_elastic"](example["Classifier"](10, steps=1))
    assert [row["kind"] for row in found["networks"]] == ["found", "random", "uniform"] * 3
    for row in found["networks"]:
        assert 0 <= row["quality"] <= 100
        assert f"{row['quality']:.3f}" in printed
        if row["genotype"]:
            network: nn.Module = Genotype(row["genotype"]).apply(searched).net
            assert row["cost"] == count_macs(network, torch.zeros(1, 3, 32, 32)) <= row["budget"]
        else:
            assert row["cost"] == row["budget"]
    assert {path.name for path in tmp_path.iterdir()} == {"sizes.json", "sizes.png", "sizes.svg"}

"""The example of elastic sizes of networks for images: the widest is torchvision's, and equal costs are compared."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advnas_lightning import Genotype, SearchSpace, make_searchable, widths
from advnas_lightning.cost import count_macs

EXAMPLES = Path(__file__).parents[2] / "examples"
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(EXAMPLES)
    return runpy.run_path(str(EXAMPLES / "size_comparison.py")) | runpy.run_path(str(EXAMPLES / "elastic_images.py"))


def made(family: Any, elastic: bool = False, share: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = family.make(3, share)
    if elastic:
        make_searchable(net, widths(**family.sizes))
    return net.eval()


def chosen(net: nn.Module, index: int) -> nn.Module:
    space = SearchSpace(net)
    rows = zip(space.edges, space.candidates, strict=True)
    return Genotype({edge: names[index] for edge, names in rows}).apply(net)


@pytest.mark.parametrize(("network", "size"), [("vit", 4**13), ("resnet", 5**8)])
def test_the_widest_network_is_the_plain_one(example: dict[str, Any], network: str, size: int) -> None:
    family = example["FAMILIES"][network]
    plain, searched = made(family), made(family, elastic=True)
    assert SearchSpace(searched).size == size
    assert torch.equal(chosen(searched, -1)(IMAGES), plain(IMAGES))


def test_the_blocks_of_a_resnet_have_their_share_of_channels(example: dict[str, Any]) -> None:
    family = example["FAMILIES"]["resnet"]
    plain, narrow = made(family), chosen(made(family, elastic=True), 1)
    for name, module in narrow.named_modules():
        if name.endswith("conv1") and "layer" in name:
            assert module.out_channels == 0.375 * plain.get_submodule(name).out_channels
    assert count_macs(narrow, IMAGES[:1]) == count_macs(made(family, share=0.375), IMAGES[:1])
    # The stem; the blocks on 8, 4, 2 and 1 pixels a side, of which the first of a stage reads fewer channels and has a
    # shortcut from the second stage on; the head.
    macs = 16 * 16 * 49 * 3 * 64 + 512 * 3
    for side, width in ((8, 64), (4, 128), (2, 256), (1, 512)):
        reads = width if side == 8 else width // 2
        shortcut = 0 if side == 8 else reads * width
        macs += side * side * (9 * (reads + 3 * width) * width + shortcut)
    assert count_macs(plain, IMAGES[:1]) == macs


@pytest.mark.parametrize(
    ("share", "stream", "inside", "hidden", "layers"), [(None, 128, 32, 128, 3), (0.5, 64, 64, 256, 6)]
)
def test_the_transformer_has_the_multiply_accumulates_of_the_formula(
    example: dict[str, Any], share: float | None, stream: int, inside: int, hidden: int, layers: int
) -> None:
    """The narrowest network keeps the width of its stream, which a uniformly scaled one does not."""
    family = example["FAMILIES"]["vit"]
    net = made(family, share=share) if share else chosen(made(family, elastic=True), 0)
    tokens = (32 // example["PATCH"]) ** 2 + 1
    layer = tokens * (4 * stream * inside + 2 * stream * hidden) + 2 * tokens * tokens * inside
    patches = (tokens - 1) * 3 * example["PATCH"] ** 2 * stream
    assert count_macs(net, IMAGES[:1]) == patches + layers * layer + stream * 3


def test_renewed_weights_of_an_attention_are_those_of_a_new_one(example: dict[str, Any]) -> None:
    torch.manual_seed(3)
    new = nn.MultiheadAttention(8, 2)
    renewed = example["renewed"](nn.MultiheadAttention(8, 2), seed=3)
    assert all(map(torch.equal, renewed.state_dict().values(), new.state_dict().values()))
    narrow = example["renewed"](chosen(made(example["FAMILIES"]["vit"], elastic=True), 0), seed=0)
    weight = next(each.self_attention.in_proj_weight for each in narrow.modules() if hasattr(each, "self_attention"))
    assert weight.shape == (96, 128)
    bound = (6 / (96 + 128)) ** 0.5  # Xavier's uniform one; of all heads it is (6 / (384 + 128)) ** 0.5
    assert 0.9 * bound < weight.abs().max() <= bound


@pytest.mark.slow
@pytest.mark.parametrize("network", ["vit", "resnet"])
def test_the_program_compares_networks_of_equal_cost(
    example: dict[str, Any], network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example["main"](["--quick", "--network", network, "--output", str(tmp_path)])
    found = json.loads((tmp_path / "sizes.json").read_text())
    printed, searched = capsys.readouterr().out, made(example["FAMILIES"][network], elastic=True)
    assert [row["kind"] for row in found["networks"]] == ["found", "random", "uniform"] * 3
    for row in found["networks"]:
        assert 0 <= row["quality"] <= 100
        assert f"{row['quality']:.3f}" in printed
        if row["genotype"]:
            macs = count_macs(Genotype(row["genotype"]).apply(searched), IMAGES[:1])
            assert row["cost"] == macs <= row["budget"]
        else:
            assert row["cost"] == row["budget"]
    assert {path.name for path in tmp_path.iterdir()} == {"sizes.json", "sizes.png", "sizes.svg"}

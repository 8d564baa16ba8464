"""Steps of a network that computes with slices of its parameters, beside the network that has these sizes."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from advnas_lightning import AdvantageNAS, Genotype, MixedOp, SearchLoader, elastic
from advnas_lightning.objectives import Classification
from benchmarks.bare import BareSearch
from benchmarks.cases.cifar10 import ARCHITECTURE, CLIP, WEIGHTS, loaders, loss
from benchmarks.measuring import BARE, Contest, compare, device
from benchmarks.rows import Row

FULL = {"channels": 64, "layers": 6, "batch_size": 64, "pixels": 16}
SMALL = {"channels": 4, "layers": 2, "batch_size": 4, "pixels": 8}


def network(channels: int, layers: int, *, widest: int | None = None) -> nn.Module:
    """Convolutions with their norms, behind one edge of which all candidates are alike, as a search needs a choice.

    Args:
        channels: The channels.
        layers: The number of convolutions.
        widest: The channels of the parameters, of which the first ones are used; without it there are no others.
    """
    full = channels if widest is None else widest

    def sized(module: nn.Module, *sizes: str) -> nn.Module:
        if widest is None:
            return module
        return elastic(module, name=dict.fromkeys(sizes, "width"), **{size: [channels] for size in sizes})

    modules: list[nn.Module] = [MixedOp("edge", {"one": nn.Identity(), "other": nn.Identity()})]
    for layer in range(layers):
        sizes = ["out_channels"] if layer == 0 else ["in_channels", "out_channels"]
        conv = nn.Conv2d(full if layer else 3, full, 3, padding=1, bias=False)
        modules += [sized(conv, *sizes), sized(nn.BatchNorm2d(full), "num_features"), nn.ReLU()]
    head = sized(nn.Linear(full, 10), "in_features")
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def make(sizes: dict[str, int], steps: int) -> Contest:
    """AdvantageNAS on the first half of the channels, beside a loop on a network that has no others."""
    torch.manual_seed(0)
    channels, layers = sizes["channels"], sizes["layers"]
    sliced, plain = network(channels, layers, widest=2 * channels), network(channels, layers)
    found = Genotype({"edge": "one", "width": str(channels)})
    plain.load_state_dict(found.apply(sliced).state_dict())
    data = loaders(2 * steps, sizes["batch_size"], 3, sizes["pixels"], sizes["pixels"])["weights"]
    loop = BareSearch(
        plain,
        loss=loss,
        weights=WEIGHTS,
        architecture=ARCHITECTURE,
        weight_clip=CLIP,
        architecture_clip=CLIP,
        autocast=partial(torch.autocast, device().type, enabled=False),
    )
    search = AdvantageNAS(
        sliced.to(device()),
        objective=Classification(10),
        weight_optimizer=WEIGHTS,
        architecture_optimizer=ARCHITECTURE,
        weight_clip=CLIP,
        architecture_clip=CLIP,
    )
    return Contest(
        search.to(device()),
        SearchLoader({"weights": data}, alternate=True),
        {BARE: loop.alternate(data)},
        bare=loop,
        kinds=("weight step", "architecture step"),
        verify=lambda: check_same_weights(found.apply(sliced), loop.network),
    )


def check_same_weights(ours: nn.Module, other: nn.Module) -> None:
    """Compare what the two have learned. Running statistics differ: the loop's architecture steps change them.

    Raises:
        AssertionError: They have learned other weights.
    """
    for mine, its in zip(ours.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-4)


def steps(case: str, *, small: bool) -> list[Row]:
    """Measure both steps."""
    sizes, turns = (SMALL, 2) if small else (FULL, 30)
    return compare(case, partial(make, sizes), turns=turns)

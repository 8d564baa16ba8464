"""Zeros behind narrow outputs must stay zeros up to what reads them; otherwise a search that pads is refused."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from advnas_lightning import DARTS, GDAS, AdvantageNAS, CounterfactualNAS, elastic, search_loaders
from advnas_lightning.engine.padding import PaddingCheck
from advnas_lightning.objectives import Regression
from advnas_lightning.space.search_space import Architecture

SIZES = [2, 4, 8]
PADS = {"darts": DARTS, "gdas": GDAS, "counterfactual": CounterfactualNAS}
QUIET: Any = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


def network(*between: nn.Module, second: nn.Module | None = None) -> nn.Sequential:
    """Two elastic widths, the first with something behind it."""
    torch.manual_seed(3)
    return nn.Sequential(
        elastic(nn.Linear(4, 8), out_features=SIZES, name="first"),
        *between,
        elastic(
            nn.Linear(8, 8),
            in_features=SIZES,
            out_features=SIZES,
            name={"in_features": "first", "out_features": "second"},
        ),
        second or nn.ReLU(),
        elastic(nn.Linear(8, 1), in_features=SIZES, name="second"),
    )


def fit(make: Any, net: nn.Module, **options: Any) -> Any:
    torch.manual_seed(4)
    data = DataLoader([(torch.randn(4), torch.ones(1)) for _ in range(16)], 4)
    search = make(net, objective=Regression(), architecture_optimizer=partial(torch.optim.Adam, lr=0.1),
                  weight_optimizer=partial(torch.optim.SGD, lr=0.1))  # fmt: skip
    Trainer(max_epochs=1, **QUIET, **options).fit(search, search_loaders(data, architecture=0.5))
    return search


@pytest.mark.parametrize("name", PADS)
@pytest.mark.parametrize("between", [nn.Sigmoid(), nn.LayerNorm(8)], ids=["sigmoid", "layer norm"])
def test_what_makes_something_of_zeros_is_refused_with_the_name_of_its_edge(name: str, between: nn.Module) -> None:
    fixed_size = isinstance(between, nn.LayerNorm)  # the narrow network cannot even run
    with pytest.raises(
        (ValueError, RuntimeError), match="normalized_shape" if fixed_size else "outputs of edge 'first' are padded"
    ):
        fit(PADS[name], network(between))


def test_each_edge_is_named() -> None:
    with pytest.raises(ValueError, match="outputs of edge 'first', 'second' are padded"):
        fit(DARTS, network(nn.Sigmoid(), second=nn.Softplus()))


@pytest.mark.parametrize("name", PADS)
@pytest.mark.parametrize(
    "between",
    [nn.GELU(), nn.Dropout(0.5), elastic(nn.LayerNorm(8), normalized_shape=SIZES, name="first")],
    ids=["gelu", "dropout", "layer norm"],
)
def test_what_keeps_zeros_is_searched(name: str, between: nn.Module) -> None:
    search = fit(PADS[name], network(between))
    assert all(layer.training for layer in search.model.modules())


class Scaled(nn.Module):
    """A residual branch with a scale of its own, as in ConvNeXt."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch, self.scale = branch, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-1, keepdim=True) + self.scale * self.branch(x)


@pytest.mark.parametrize("scale", [0.0, 1e-6])
@pytest.mark.parametrize(("between", "is_right"), [(nn.GELU(), True), (nn.Sigmoid(), False)])
def test_a_branch_that_does_nothing_at_first_is_checked_again(between: nn.Module, is_right: bool, scale: float) -> None:
    """At 0 the first loss tells nothing, and at 1e-6 nothing in single precision."""
    net = Scaled(network(between))
    search = DARTS(net, objective=Regression(), architecture_optimizer=torch.optim.Adam)
    check = PaddingCheck(net, search.evaluator, {"first": (2, 1, 0), "second": (2, 1, 0)})
    mixed, batch = Architecture(torch.full((2, 3), 1 / 3), search.space.all_paths), (torch.ones(2, 4), torch.ones(2, 1))
    passes: list[float] = []
    net.register_forward_hook(lambda *_: passes.append(float(net.scale)))
    net.scale.data.fill_(scale)
    check.see(mixed, batch)
    net.scale.data.fill_(1)
    with nullcontext() if is_right else pytest.raises(ValueError, match="outputs of edge 'first' are padded"):
        check.see(mixed, batch)
    before = len(passes)
    for _ in range(3 if is_right else 0):
        check.see(mixed, batch)
    assert len(passes) == before


class Recurrent(nn.Module):
    """A recurrent layer over pairs, with dropout between its two layers, and attention with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 4, num_layers=2, dropout=0.5, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(x.unsqueeze(-1))
        return self.attention(states, states, states)[0][:, -1]


def test_dropout_inside_of_layers_hides_nothing() -> None:
    net = network(nn.Sigmoid())
    with pytest.raises(ValueError, match="outputs of edge 'first' are padded"):
        fit(DARTS, nn.Sequential(Recurrent(), net))
    search = fit(DARTS, nn.Sequential(first := Recurrent(), network(nn.GELU())))
    assert search.model[0] is first
    assert (first.gru.dropout, first.attention.dropout) == (0.5, 0.5)


@pytest.mark.parametrize("name", PADS)
def test_sizes_may_be_in_any_order(name: str) -> None:
    torch.manual_seed(3)
    net = nn.Sequential(
        elastic(nn.Linear(4, 8), out_features=[8, 2], name="first"),  # as many candidates as any edge has
        nn.ReLU(),
        elastic(nn.Linear(8, 1), in_features=[8, 2], name="first"),
    )
    fit(PADS[name], net)


def test_a_strategy_that_pads_nothing_takes_all_layers() -> None:
    fit(AdvantageNAS, network(nn.Sigmoid()))


def test_halves_are_no_reason() -> None:
    fit(DARTS, network(nn.GELU()), precision="bf16-mixed")
    with pytest.raises(ValueError, match="'first'"):
        fit(DARTS, network(nn.Sigmoid()), precision="bf16-mixed")


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def test_a_random_loss_tells_nothing() -> None:
    fit(DARTS, network(Noise()))


def test_the_check_changes_no_number(monkeypatch: pytest.MonkeyPatch, assert_same: Any) -> None:
    checked = fit(DARTS, network(nn.Dropout(0.5))).state_dict()
    monkeypatch.setattr("advnas_lightning.engine.padding.PaddingCheck.see", lambda *_: None)
    assert_same(checked, fit(DARTS, network(nn.Dropout(0.5))).state_dict())


def test_the_module_is_told_that_a_check_is_no_weight_step() -> None:
    weight_steps: list[int] = []

    class Search(DARTS):
        def loss(self, batch: Any) -> Tensor:
            if not self.in_architecture_step:
                weight_steps.append(self.global_step)
            return super().loss(batch)  # type: ignore[return-value]

    fit(Search, network(nn.ReLU()))
    assert weight_steps == [0, 1]

"""``search.export``: what a search has found is written as it is called in the search's own steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from advnas_lightning import AdvantageNAS, Fixed, MixedOp, SearchStrategy, search_loaders
from advnas_lightning.export import export
from advnas_lightning.export.of_search import found_network
from advnas_lightning.objectives import Classification, LanguageModelling, Window
from advnas_lightning.tasks.ptb.model import RecurrentLM
from tests.support.refusals import one_line
from tests.support.small_search import CLASSES, FEATURES, GENOTYPE, CountingData, SmallNet

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


class WithoutForward(LightningModule):
    """As in the README: the steps call a part of the module, and there is no forward."""

    def __init__(self) -> None:
        super().__init__()
        acts = {"relu": nn.ReLU(), "tanh": nn.Tanh()}
        self.net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), MixedOp("act", acts), nn.Linear(4, 2))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.log("seen", float(batch_idx))
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1)


class WithForward(WithoutForward):
    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        return self.net(x) + offset

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0], offset=batch[0].sum(1, keepdim=True)), batch[1])


class WithExample(WithoutForward):
    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = torch.ones(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def fitted(module: LightningModule) -> SearchStrategy:
    points = torch.randn(32, 2)
    data = DataLoader(TensorDataset(points, (points.norm(dim=1) > 1).long()), 4, shuffle=True)
    search = AdvantageNAS(module, architecture_optimizer=lambda theta: SGD(theta, lr=0.1), calibrate=2)
    Trainer(max_epochs=1, **QUIET).fit(search, search_loaders(data, architecture=0.5))
    return search


def test_a_module_is_written_as_its_step_calls_it(tmp_path: Path) -> None:
    search = fitted(WithForward())
    before, modes = (
        {k: v.clone() for k, v in search.state_dict().items() if isinstance(v, Tensor)},
        [module.training for module in search.modules()],
    )
    random = torch.get_rng_state()
    exported = search.export(tmp_path / "net.torchscript")
    assert torch.equal(random, torch.get_rng_state())
    assert exported.inputs == {"x": ["batch", 2], "offset": ["batch", 1]}
    assert [module.training for module in search.modules()] == modes
    assert all(torch.equal(search.state_dict()[name], value) for name, value in before.items())
    x = torch.randn(3, 2)
    wanted = search.derive().eval()(x, torch.ones(3, 1))
    torch.testing.assert_close(torch.jit.load(exported.path)(x, torch.ones(3, 1)), wanted)


def test_a_module_without_a_forward_says_which_part_is_called(tmp_path: Path) -> None:
    search = fitted(WithoutForward())
    with one_line("WithoutForward has no forward of its own: give part='net', which is called, or inputs="):
        search.export(tmp_path / "net.torchscript")
    with one_line("part='nett' is no module of WithoutForward: use net"):
        search.export(tmp_path / "net.torchscript", part="nett")
    with one_line("part='net.2.candidates.relu' lies in the choice 'act': use part='net.2'"):
        search.export(tmp_path / "net.torchscript", part="net.2.candidates.relu")
    assert list(tmp_path.iterdir()) == []
    for act in ("relu", "tanh"):
        exported = search.export(tmp_path / f"{act}.torchscript", part="net", genotype={"act": act})
        x = torch.randn(3, 2)
        wanted = search.derive(genotype={"act": act}).eval().net(x)  # type: ignore[operator]
        torch.testing.assert_close(torch.jit.load(exported.path)(x), wanted)
    assert search.export(tmp_path / "act.torchscript", part="net.2").inputs == {"input": ["batch", 4]}


def test_lightning_s_own_example_counts(tmp_path: Path) -> None:
    search = AdvantageNAS(WithExample(), architecture_optimizer=lambda theta: SGD(theta, lr=0.1), calibrate=0)
    exported = search.export(tmp_path / "net.torchscript")
    assert (exported.inputs, exported.sizes) == ({"x": ["batch", 2]}, [6, 1, 7])
    given = search.export(tmp_path / "net.torchscript", inputs={"x": torch.ones(3, 2)}, dynamic=False)
    assert given.inputs == {"x": [3, 2]}


def test_without_a_batch_it_says_what_to_give(tmp_path: Path) -> None:
    search = AdvantageNAS(WithForward(), architecture_optimizer=lambda theta: SGD(theta, lr=0.1), calibrate=0)
    with one_line("there is no training batch to call the network with: give batches=, or inputs="):
        search.export(tmp_path / "net.torchscript")
    with one_line("inputs=5 must be a tensor, a list of arguments, or a dict of them by name"):
        search.export(tmp_path / "net.torchscript", inputs=5)
    with one_line("edge 'act' has no candidate 'gelu'"):
        search.export(tmp_path / "net.torchscript", genotype={"act": "gelu"})


def test_a_plain_network_and_a_loader_of_the_user(tmp_path: Path) -> None:
    search = AdvantageNAS(
        SmallNet(), architecture_optimizer=lambda theta: SGD(theta, lr=0.1), objective=Classification(CLASSES)
    )
    exported = export(search, tmp_path / "net.torchscript", DataLoader(CountingData(16, 0), 4), genotype=GENOTYPE)
    assert exported.inputs == {"x": ["batch", FEATURES]}
    assert exported.sizes == [4, 1, 5]


def test_the_generator_of_a_loader_of_the_fit_stays_as_it_is(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(8, 2), torch.zeros(8, dtype=torch.long))
    loaders = {role: DataLoader(data, 4, shuffle=True, generator=generator) for role in ("weights", "architecture")}
    search = AdvantageNAS(WithForward(), architecture_optimizer=lambda theta: SGD(theta, lr=0.1), calibrate=0)
    Trainer(max_epochs=1, **QUIET).fit(search, loaders)
    before = generator.get_state()
    search.export(tmp_path / "net.torchscript")
    assert torch.equal(before, generator.get_state())


def test_the_generator_of_a_batch_sampler_stays_as_it_is() -> None:
    generator, data = torch.Generator().manual_seed(1), CountingData(16, 0)
    batches = BatchSampler(RandomSampler(data, generator=generator), 4, drop_last=False)
    search = Fixed(SmallNet(), genotype=GENOTYPE, objective=Classification(CLASSES))
    before = generator.get_state()
    found_network(search, DataLoader(data, batch_sampler=batches))
    assert torch.equal(before, generator.get_state())


def test_a_recurrent_network_is_called_with_the_state_that_its_second_window_gets() -> None:
    model = RecurrentLM(words=7, embedding_size=3, hidden_size=4, nodes=1)
    search = AdvantageNAS(model, architecture_optimizer=lambda t: SGD(t, lr=0.1), objective=LanguageModelling())
    ids = torch.randint(7, (2, 3))
    windows = [Window(ids, ids, position=place, text="train", tokens=6) for place in range(2)]
    network, call = found_network(search, windows, genotype={"0->1": "tanh"})
    assert (list(call.tensors), call.size, call.batch_dims) == (["tokens", "hidden"], 3, {"tokens": 1, "hidden": 0})
    _, state = network.eval()(ids)
    torch.testing.assert_close(call.tensors["hidden"], state.detach())
    assert search.objective.get_extra_state() == {}


def test_a_fixed_search_has_one_architecture(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), MixedOp("act", {"relu": nn.ReLU(), "tanh": nn.Tanh()}))
    search = Fixed(model, genotype={"act": "relu"}, objective=Classification(2))
    batch = torch.randn(4, 2), torch.zeros(4, dtype=torch.long)
    assert search.export(tmp_path / "net.torchscript", [batch], genotype={"act": "relu"}).difference == 0
    assert search.training
    with one_line("Fixed has one architecture: leave it out"):
        search.export(tmp_path / "net.torchscript", [batch], genotype={"act": "tanh"})


def test_it_is_refused_within_a_fit(tmp_path: Path) -> None:
    class Exporting(WithForward):
        def on_train_epoch_end(self) -> None:
            self.trainer.lightning_module.export(tmp_path / "net.pt2")  # type: ignore[operator]

    with one_line("this search is in one: export it when it is over"):
        fitted(Exporting())


@pytest.mark.parametrize("cell", ["|skip~0|", '{"act": "relu"}'])
def test_a_genotype_may_be_a_text(cell: str, tmp_path: Path) -> None:
    search = AdvantageNAS(WithExample(), architecture_optimizer=lambda theta: SGD(theta, lr=0.1), calibrate=0)
    if cell.startswith("|"):
        with one_line("the genotype has no edge 'act'"):
            search.export(tmp_path / "net.torchscript", genotype=cell)
    else:
        assert search.export(tmp_path / "net.torchscript", genotype=cell).difference == 0

"""Source of a found network makes an equal network, strictly, without this package, or it is refused in one line."""

from __future__ import annotations

import ast
import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from advnas_lightning import Genotype
from advnas_lightning.export import Call, export_network
from advnas_lightning.export.call import largest_difference
from advnas_lightning.export.source.file import source_of
from advnas_lightning.tasks.cifar10.model import NASBench201
from advnas_lightning.tasks.ptb.model import RecurrentLM
from advnas_lightning.tasks.toy.model import ToyNetwork
from tests.support.refusals import one_line

CELL = "|none~0|+|skip_connect~0|nor_conv_3x3~1|+|avg_pool_3x3~0|skip_connect~1|nor_conv_1x1~2|"
THEIRS = '''
from lightning import LightningModule
from torch import nn
from torchmetrics.classification import MulticlassAccuracy


def doubled(x):
    return 2 * x


class Block(nn.Module):
    factor = 3.0

    def __init__(self, width, act):
        super().__init__()
        self.linear, self.act, self.sizes, self.scale = nn.Linear(width, width), act, (width, [1, 2]), doubled

    def forward(self, x):
        return self.scale(self.act(self.linear(x))) * self.factor


class Classifier(LightningModule):
    def __init__(self, width=4):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(Block(width, nn.ReLU()), nn.Linear(width, 2))
        self.accuracy = MulticlassAccuracy(2)

    def forward(self, x):
        return self.net(x)


class Keeping(nn.Module):
    """What it keeps in a lambda can be written nowhere."""

    def __init__(self):
        super().__init__()
        self.function = lambda x: x + 1

    def forward(self, x):
        return self.function(x)
'''


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.decoder = nn.Embedding(5, 3), nn.Linear(3, 5)
        self.decoder.weight = self.embedding.weight
        self.block = nn.Linear(3, 3)
        self.blocks = nn.ModuleList([self.block, nn.Tanh(), self.block])
        self.register_buffer("offset", torch.tensor([1.0, 2.0, 3.0]), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.offset
        for block in self.blocks:
            x = block(x)
        return self.decoder(x)


def networks() -> dict[str, tuple[nn.Module, Any]]:
    cell = NASBench201(cells=1, channels=2, stages=2, zero_op=True, affine=True, running_statistics=True)
    recurrent = RecurrentLM(words=7, embedding_size=3, hidden_size=4, nodes=2)
    genotype = Genotype({"0->1": "tanh", "0->2": "zero", "1->2": "relu"})
    toy = ToyNetwork(nodes=2, candidates=2)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu"), 2)
    layers = [nn.Conv1d(2, 4, 3, padding=1, groups=2), nn.PReLU(), nn.GroupNorm(2, 4), nn.Flatten(), nn.LayerNorm(16)]
    return {
        "cell": (Genotype.from_nasbench201(CELL).apply(cell), [torch.randn(4, 3, 4, 4)]),
        "recurrent": (genotype.apply(recurrent), [torch.zeros(2, 3, dtype=torch.long), torch.randn(3, 4)]),
        "toy": (Genotype({"input->1": "filter0", "input->2": "filter1"}).apply(toy), [torch.randn(4, 1, 13, 13)]),
        "encoder": (encoder, [torch.randn(3, 5, 8)]),
        "resnet": (resnet18(num_classes=3), [torch.randn(2, 3, 32, 32)]),
        "gru": (nn.GRU(3, 4, num_layers=2, bidirectional=True), [torch.randn(2, 5, 3)]),
        "layers": (nn.Sequential(*layers), [torch.randn(2, 2, 4)]),
        "double": (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double(), [torch.randn(4, 2).double()]),
    }


def made_of(network: nn.Module, inputs: Any, stem: str = "net") -> tuple[str, nn.Module]:
    """The source of a network, and what it makes, with the weights."""
    call = Call.of(network.eval(), *inputs)
    text, left_out, _ = source_of(network, call, stem, {"edge": "a"})
    assert left_out == []
    scope: dict[str, Any] = {"__name__": "made"}
    exec(compile(text, "net.py", "exec"), scope)
    sys.modules.pop("made", None)
    model = scope["build"]()
    model.load_state_dict(network.state_dict(), strict=True)
    assert scope["FOUND"] == {"edge": "a"}
    return text, model.eval()


@pytest.mark.parametrize("name", networks())
def test_the_source_makes_an_equal_network(name: str) -> None:
    network, inputs = networks()[name]
    text, made = made_of(network, inputs)
    call = Call.of(network, *inputs)
    assert largest_difference(call.run(made), call.run(network)) <= 1e-6
    assert {key: value.dtype for key, value in made.state_dict().items()} == {
        key: value.dtype for key, value in network.state_dict().items()
    }
    imported = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert {str(each).partition(".")[0] for each in imported} <= {"__future__", "torch", "torchvision"}
    assert "advnas" not in text


def test_the_source_is_short_and_has_the_words_of_the_network() -> None:
    network, inputs = networks()["cell"]
    text, _ = made_of(network, inputs)
    assert '"0->2": nn.Identity(),' in text
    assert '"1->2": nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)),' in text
    assert "class Zero(nn.Module):\n" in text
    assert "MixedOp" not in text
    assert "count_parameters" not in text
    assert max(map(len, text.splitlines())) <= 140


def test_parts_that_are_one_stay_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[Tied.__module__], "Tied", Tied)
    text, made = made_of(Tied(), [torch.arange(5)])
    assert isinstance(made, Tied)
    assert made.decoder.weight is made.embedding.weight
    assert made.blocks[0] is made.block is made.blocks[2]
    assert torch.equal(made.offset, torch.tensor([1.0, 2.0, 3.0]))
    assert set(made.state_dict()) == set(Tied().state_dict())
    assert "from tests.export.test_source import Tied" in text


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of a user that can be imported."""
    (tmp_path / "their_module.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    import their_module  # type: ignore[import-not-found]

    yield their_module
    del sys.modules["their_module"]


@pytest.mark.slow
def test_a_user_s_classes_are_imported_and_run_in_a_fresh_process(theirs: Any, tmp_path: Path) -> None:
    network, folder = theirs.Classifier(), tmp_path / "out"
    folder.mkdir()
    exported = export_network(network, folder / "net.py", torch.randn(5, 4))
    assert (exported.format, exported.difference, exported.sizes) == ("source", 0.0, [5, 1, 6])
    assert [path.name for path in exported.beside] == ["net.pt"]
    assert sorted(path.name for path in folder.iterdir()) == ["net.pt", "net.py"]
    text = (folder / "net.py").read_text()
    assert "This file needs PyTorch and lightning" in text
    assert "their_module" in text.partition("from __future__")[0]
    assert "act=nn.ReLU()" in text
    weights = torch.load(folder / "net.pt", weights_only=True)
    assert weights.keys() == network.state_dict().keys()


def test_a_network_of_pytorch_s_own_modules_runs_without_this_package(tmp_path: Path) -> None:
    network, inputs = networks()["recurrent"]
    exported = export_network(network, tmp_path / "net.py", *inputs)
    assert exported.inputs == {"tokens": [2, "batch"], "hidden": ["batch", 4]}
    assert exported.difference <= 1e-6


def test_a_class_in_a_function_is_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    class Local(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    folder = tmp_path / "out"
    folder.mkdir()
    with one_line("Local of tests.export.test_source cannot be imported by name", "part="):
        export_network(Local(), folder / "net.py", torch.ones(2))
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_what_a_module_keeps_in_a_lambda_is_named_where_it_is_missed(theirs: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with one_line("has no attribute 'function'", "the source is without function, a function"):
        export_network(theirs.Keeping(), folder / "net.py", torch.ones(2))
    assert list(folder.iterdir()) == []


def test_the_network_itself_stays_as_it_is() -> None:
    network, inputs = networks()["cell"]
    before = copy.deepcopy(network.state_dict())
    made_of(network, inputs)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

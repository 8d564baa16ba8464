"""A network is written into a file that computes the same, or it is refused in one line and no file is left."""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn

from advnas_lightning import Genotype, MixedOp
from advnas_lightning.export import export_network
from advnas_lightning.export.formats import MODULES, missing_extra
from advnas_lightning.tasks.cifar10.model import NASBench201
from advnas_lightning.tasks.ptb.model import RecurrentLM
from tests.support.refusals import one_line

CELL = "|nor_conv_3x3~0|+|skip_connect~0|skip_connect~1|+|avg_pool_3x3~0|skip_connect~1|nor_conv_1x1~2|"
onnx = pytest.mark.skipif(missing_extra(["onnx"]) is not None, reason=f"needs the extra onnx: {MODULES['onnx']}")


class Module(LightningModule):
    """A module as users write them: with hyperparameters, an input by name, a flag, and a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x: Tensor, *, scale: Tensor, flag: bool = False) -> dict[str, Tensor]:
        logits = self.net(x) * scale
        return {"logits": logits if flag else -logits, "label": logits.argmax(-1)}


class Sized(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(4, -1)


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if x.sum() > 0 else x


class Remembering(nn.Module):
    """Returns something else each time, so that no file can be equal to it."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Killed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return x


def cell() -> nn.Module:
    return Genotype.from_nasbench201(CELL).apply(NASBench201(cells=1, channels=2, stages=1))


def recurrent() -> nn.Module:
    genotype = Genotype({"0->1": "tanh", "0->2": "zero", "1->2": "relu"})
    return genotype.apply(RecurrentLM(words=7, embedding_size=3, hidden_size=4, nodes=2))


def check(network: nn.Module, path: Path, *inputs: Any, **options: Any) -> Any:
    """Export, and compare once more what can be read back."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    exported = export_network(network, path, *inputs, **options)
    assert exported.difference <= exported.tolerance == 1e-4
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    return exported


@pytest.mark.parametrize("ending", [".pt2", ".torchscript"])
def test_a_module_with_named_inputs_and_several_outputs(ending: str, tmp_path: Path) -> None:
    network, path = Module(), tmp_path / f"net{ending}"
    exported = check(network, path, torch.randn(5, 2), scale=torch.randn(5, 1), flag=True)
    assert exported.inputs == {"x": ["batch", 2], "scale": ["batch", 1]}
    assert exported.outputs == [["batch", 2], ["batch"]]
    assert exported.sizes == [5, 1, 6]
    x, scale = torch.randn(3, 2), torch.randn(3, 1)
    wanted = copy.deepcopy(network).eval()(x, scale=scale, flag=True)
    if ending == ".pt2":
        program = torch.export.load(path)
        found = program.module()(x, scale=scale, flag=True)
        assert set(program.state_dict) == set(network.state_dict())
    else:
        found = torch.jit.load(path)(x, scale)
    torch.testing.assert_close(found, wanted)


def test_images_of_any_batch_size(tmp_path: Path) -> None:
    exported = check(cell(), tmp_path / "net.torchscript", torch.randn(1, 3, 4, 4))
    assert exported.inputs == {"images": ["batch", 3, 4, 4]}
    assert exported.sizes == [1, 2]


@pytest.mark.slow
def test_a_recurrent_network_has_its_state_as_an_input(tmp_path: Path) -> None:
    exported = check(recurrent(), tmp_path / "net.pt2", torch.zeros(2, 3, dtype=torch.long), torch.randn(3, 4))
    assert exported.inputs == {"tokens": [2, "batch"], "hidden": ["batch", 4]}
    assert exported.outputs == [[2, "batch", 7], ["batch", 4]]
    with pytest.raises((AssertionError, RuntimeError), match="tokens"):
        torch.export.load(tmp_path / "net.pt2").module()(torch.zeros(4, 3, dtype=torch.long), torch.randn(3, 4))


def test_a_trace_that_would_be_wrong_for_other_lengths_is_refused(tmp_path: Path) -> None:
    with one_line("a trace would be wrong for other inputs, in model.py"):
        export_network(recurrent(), tmp_path / "net.torchscript", torch.zeros(2, 3, dtype=torch.long))
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_the_network_does_not_take_are_said_to_be_wrong(tmp_path: Path) -> None:
    with one_line("Linear fails with these inputs (", "give what its forward takes"):
        export_network(nn.Linear(6, 2), tmp_path / "net.pt2", {"x": torch.randn(4, 6)})


@pytest.mark.parametrize("ending", [".pt2", ".torchscript"])
def test_a_fixed_size_is_refused_by_default_and_written_where_it_is_asked_for(ending: str, tmp_path: Path) -> None:
    with one_line("fails with a batch of 5 in place of 4 (", "dynamic=false"):
        export_network(Sized(), tmp_path / f"net{ending}", torch.randn(4, 6))
    assert list(tmp_path.iterdir()) == []
    exported = export_network(Sized(), tmp_path / f"net{ending}", torch.randn(4, 6), dynamic=False)
    assert (exported.inputs, exported.sizes) == ({"x": [4, 6]}, [4])


@pytest.mark.parametrize(
    ("network", "ending", "says"),
    [
        (Deciding(), ".pt2", "Deciding cannot be written as pt2: "),
        (Deciding(), ".torchscript", "Converting a tensor to a Python boolean"),
        (Remembering(), ".torchscript", "and the tolerance is 0.0001"),
        (nn.Sequential(MixedOp("edge", {"skip": nn.Identity()})), ".pt2", "Sequential has MixedOps"),
        (nn.Identity(), ".txt", "the ending says the format"),
        (nn.Identity(), "/deeper.pt2", "there is no folder"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_leaves_no_file(
    network: nn.Module, ending: str, says: str, tmp_path: Path
) -> None:
    with one_line(says):
        export_network(network, tmp_path / f"net{ending}", torch.ones(4, 6))
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_stays_where_a_new_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.torchscript"
    path.write_text("old")
    with pytest.raises(ValueError, match="differs"):
        export_network(Remembering(), path, torch.ones(4, 6))
    assert path.read_text() == "old"


def test_weights_of_something_else_are_not_replaced(tmp_path: Path) -> None:
    weights, source = tmp_path / "net.pt", tmp_path / "net.py"
    weights.write_text("mine")
    with one_line(f"{weights} is there, and {source} would replace it"):
        export_network(nn.Linear(3, 2), source, torch.ones(4, 3))
    assert (weights.read_text(), list(tmp_path.iterdir())) == ("mine", [weights])
    weights.unlink()
    for _ in range(2):  # its own weights are replaced
        export_network(nn.Linear(3, 2), source, torch.ones(4, 3))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_what_a_killed_export_has_left_goes_with_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "net.torchscript"
    for _ in range(2):
        child = os.fork()
        if child == 0:
            export_network(Killed(), path, torch.randn(4, 3))
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert len([each for each in tmp_path.iterdir() if each.is_dir()]) == 1
    check(nn.Linear(3, 2), path, torch.randn(4, 3))
    assert list(tmp_path.iterdir()) == [path]


def test_two_exports_to_one_file_are_refused(tmp_path: Path) -> None:
    class Exporting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            export_network(nn.Linear(3, 2), tmp_path / "net.torchscript", torch.randn(4, 3))
            return x

    with one_line(f"{tmp_path} is in use by process {os.getpid()} on"):
        export_network(Exporting(), tmp_path / "net.torchscript", torch.randn(4, 3))


@onnx
def test_an_onnx_file_names_its_inputs_and_takes_any_batch(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    exported = check(network, tmp_path / "net.onnx", torch.randn(4, 3))
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    assert [(each.name, each.shape) for each in session.get_inputs()] == [("input", ["batch", 3])]
    assert [(each.name, each.shape) for each in session.get_outputs()] == [("output", ["batch", 2])]
    x = torch.randn(9, 3)
    (found,) = session.run(None, {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network.eval()(x).detach())


@onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", ["cell", "recurrent", "module"])
def test_networks_as_onnx(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    if name == "cell":
        check(cell(), path, torch.randn(4, 3, 4, 4))
    elif name == "recurrent":
        check(recurrent(), path, torch.zeros(2, 3, dtype=torch.long), torch.randn(3, 4))
    else:
        check(Module(), path, torch.randn(5, 2), scale=torch.randn(5, 1))


@onnx
@pytest.mark.slow
def test_a_version_of_the_operators_that_is_not_written_is_refused(tmp_path: Path) -> None:
    with one_line("opset=1: the exporter can write this network with version ", "or leave it out"):
        export_network(nn.Linear(3, 2), tmp_path / "net.onnx", torch.randn(4, 3), opset=1)
    assert list(tmp_path.iterdir()) == []
    check(nn.Linear(3, 2), tmp_path / "net.onnx", torch.randn(4, 3), opset=18)


@onnx
@pytest.mark.slow
def test_an_operator_that_onnx_lacks_is_one_line(tmp_path: Path) -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvals(x @ x.T).abs()

    with one_line("Own cannot be written as onnx: "):
        export_network(Own(), tmp_path / "net.onnx", torch.randn(3, 3), dynamic=False)
    assert list(tmp_path.iterdir()) == []

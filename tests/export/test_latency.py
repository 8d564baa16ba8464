"""A candidate's latency in onnxruntime is a cost like the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advnas_lightning.cli.cost import main, read_settings
from advnas_lightning.cost.files import read_costs
from advnas_lightning.export import latency
from advnas_lightning.export.formats import missing_extra
from advnas_lightning.export.latency import onnx_latency
from tests.support.command_line import SMALL_TOY, launch
from tests.support.refusals import one_line

onnx = pytest.mark.skipif(missing_extra(["onnx"]) is not None, reason="needs the extra onnx")


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that were exported, by functions that stand for the exporter and for onnxruntime."""
    found: list[nn.Module] = []
    monkeypatch.setattr(latency, "missing_extra", lambda formats: None)
    monkeypatch.setattr(latency, "write_onnx", lambda module, *_, **__: found.append(module))
    monkeypatch.setattr(latency, "run_onnx", lambda *_, **__: lambda call: list(call.tensors.values()))
    latency._kept.clear()
    return found


def test_modules_that_differ_in_their_weights_alone_are_exported_once(exported: list[nn.Module]) -> None:
    x = torch.ones(2, 3)
    for module in (nn.Linear(3, 3), nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 3, bias=False)):
        assert onnx_latency(module, x) >= 0
    assert len(exported) == 3
    onnx_latency(nn.Linear(3, 3), torch.ones(4, 3))  # other sizes
    onnx_latency(nn.Softplus(1.0), x)
    onnx_latency(nn.Softplus(2.0), x)
    assert len(exported) == 6


def test_a_module_with_more_than_plain_attributes_is_exported_each_time(exported: list[nn.Module]) -> None:
    class Own(nn.Module):
        def __init__(self, function: Any) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Tensor) -> Tensor:
            return self.function(x)

    for function in (torch.sin, torch.cos):
        onnx_latency(Own(function), torch.ones(2))
    assert len(exported) == 2


def test_the_modes_stay(exported: list[nn.Module]) -> None:
    module = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    module[1].eval()
    onnx_latency(module, torch.ones(1, 2))
    assert [each.training for each in module.modules()] == [True, True, False]


def test_what_cannot_be_measured_is_one_line(
    exported: list[nn.Module], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with one_line("the network is on meta: use device=cpu"):
        onnx_latency(nn.Linear(2, 2, device="meta"), torch.ones(1, 2, device="meta"))
    monkeypatch.setattr("advnas_lightning.export.formats.find_spec", lambda name: None)
    (tmp_path / "checkpoints").mkdir()
    with one_line('pip install "advnas-lightning[onnx]"'):
        read_settings("measure", [str(tmp_path), "kinds=onnx_latency"])


@onnx
@pytest.mark.slow
def test_a_run_s_candidates_are_measured_in_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=run", "task.data.nodes=2")
    capsys.readouterr()
    main(["measure", "run", "kinds=params,onnx_latency"])
    found = read_costs(tmp_path / "run/costs.json")
    assert list(found) == ["params", "onnx_latency"]
    assert all(value > 0 for row in found["onnx_latency"].table.rows for value in row)
    assert "onnx_latency: milliseconds of a forward pass of the batch in onnxruntime" in capsys.readouterr().out

"""Formats are known by their names and endings, and one whose packages are missing says what to install."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from advnas_lightning.cli import export
from advnas_lightning.export.formats import FORMATS, MODULES, check_formats, format_of, missing_extra
from advnas_lightning.export.network import TOLERANCE
from advnas_lightning.space.genotype import LATER, SELECTIONS

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("given", ["onnx,pt2", "onnx, pt2,onnx", ["onnx", "pt2"], ("onnx", "pt2")])
def test_formats_may_be_given_as_a_text_or_a_list(given: Any) -> None:
    assert check_formats("export", given) == ["onnx", "pt2"]
    wrapped = OmegaConf.create({"export": list(given) if isinstance(given, tuple) else given}).export
    assert check_formats("export", wrapped) == ["onnx", "pt2"]


@pytest.mark.parametrize(
    ("given", "says"), [("onyx", "did you mean onnx?"), (3, "use onnx, pt2"), ("pt2,", "use onnx")]
)
def test_an_unknown_format_is_one_line(given: Any, says: str) -> None:
    with pytest.raises(ValueError, match="export=") as caught:
        check_formats("export", given)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_s_ending_is_its_format(name: str) -> None:
    assert format_of(f"folder.x/net{FORMATS[name].suffix}") == name


def test_a_file_without_an_ending_says_which_there_are() -> None:
    with pytest.raises(ValueError, match=r"net: the ending says the format: use \.onnx \(onnx\)"):
        format_of("net")


@pytest.mark.parametrize("module", MODULES["onnx"])
def test_a_missing_package_says_what_to_install(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advnas_lightning.export.formats.find_spec", lambda name: None if name == module else True)
    assert missing_extra(["pt2", "torchscript"]) is None
    message = missing_extra(["pt2", "onnx"])
    assert message == f'onnx needs an extra ({module} is missing): pip install "advnas-lightning[onnx]"'
    assert any(each.startswith(module) for each in PROJECT["optional-dependencies"]["onnx"])


def test_the_command_knows_what_needs_pytorch_to_be_imported() -> None:
    assert (*SELECTIONS, *LATER) == export.KINDS
    assert export.TOLERANCE == TOLERANCE

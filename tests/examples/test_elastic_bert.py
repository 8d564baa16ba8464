"""The example of a pre-trained BERT: what it reads and measures, and what it leaves."""

from __future__ import annotations

import copy
import json
import random
import runpy
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advnas_lightning import Genotype, SearchSpace
from advnas_lightning.cost import count_macs
from tests.support.small_bert import HEADS, HIDDEN, LAYERS, write_bert

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(EXAMPLES)
    return runpy.run_path(str(EXAMPLES / "elastic_bert.py"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bert(tmp_path / "bert")


def sentences(number: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(string.ascii_lowercase, k=3)) + " b c d" for _ in range(number)]


def rows(example: dict[str, Any], folder: Path, number: int) -> list[dict[str, Any]]:
    encoder = example["Encoder"](example["load"](folder), lr=0, steps=1)
    tokenizer = example["AutoTokenizer"].from_pretrained(folder)
    found: list[dict[str, Any]] = example["with_targets"](encoder, tokenizer, sentences(number), 16)
    return found


def test_an_embedding_does_not_depend_on_padding(example: dict[str, Any], folder: Path) -> None:
    encoder = example["Encoder"](example["load"](folder), lr=0, steps=1).eval()
    short = {name: value[None, :8] for name, value in rows(example, folder, 1)[0].items() if name != "target"}
    long = {name: nn.functional.pad(value, (0, 4)) for name, value in short.items()}
    with torch.no_grad():
        torch.testing.assert_close(encoder(short), encoder(long))
        features = encoder.bert(**short).last_hidden_state
        torch.testing.assert_close(encoder(short), features.mean(1))  # there is no padding in it


def test_only_the_layers_learn_and_without_dropout(example: dict[str, Any], folder: Path) -> None:
    bert = example["load"](folder)
    assert {name.partition(".")[0] for name, weight in bert.named_parameters() if weight.requires_grad} == {"encoder"}
    batch = example["default_collate"](rows(example, folder, 2))
    encoder = example["Encoder"](bert, lr=0, steps=1)
    assert encoder.training
    assert encoder.training_step(batch).item() == pytest.approx(0, abs=1e-6)  # its own targets


def test_what_is_measured_is_that_of_a_formula(example: dict[str, Any]) -> None:
    class Given(nn.Module):
        def forward(self, batch: dict[str, Any]) -> Any:
            return batch["own"]

    own, target = torch.tensor([0.0, 40.0, 70.0]).deg2rad(), torch.tensor([0.0, 20.0, 70.0]).deg2rad()  # on a circle
    batch = {name: torch.stack([each.cos(), each.sin()], 1) for name, each in (("own", own), ("target", target))}
    found = example["fidelity"](Given(), [batch])
    assert found["cosine"] == pytest.approx((2 + torch.tensor(20.0).deg2rad().cos().item()) / 3)
    # The pairs 01, 02, 12 are 40, 70, 30 degrees apart, and those of the targets 20, 70, 50: two ranks differ by one.
    assert found["order of pairs"] == pytest.approx(1 - 6 * 2 / (3 * (3**2 - 1)))
    assert found["same neighbour"] == pytest.approx(2 / 3)  # that of the second sentence is another one


def test_the_sizes_are_shares_of_the_largest(example: dict[str, Any], folder: Path) -> None:
    bert = example["make_elastic"](example["load"](folder))
    space = SearchSpace(bert)
    assert space.size == (6 * 6) ** LAYERS * LAYERS
    half = example["sized"](space, heads=1 / 2, ffn=1 / 3)
    assert set(half.values()) == {str(HEADS // 2), str(HIDDEN // 3), str(LAYERS)}
    assert half["encoder.depth"] == str(LAYERS)


def test_the_program_compares_networks_and_saves_what_it_finds(
    example: dict[str, Any], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("\n".join(sentences(80)) + "\ntoo short\n")
    options = ["--model", folder, "--text", tmp_path / "text.txt", "--output", tmp_path / "out", "--quick"]
    example["main"](list(map(str, options)))
    content = json.loads((tmp_path / "out" / "sizes.json").read_text())
    kinds = ["found", "uniform", "shallow", "one width", "random"]
    assert [row["kind"] for row in content["networks"]] == 3 * kinds
    printed, one = capsys.readouterr().out, example["default_collate"](rows(example, folder, 1))
    encoder = example["Encoder"](example["make_elastic"](example["load"](folder)), lr=0, steps=1)
    for row in content["networks"]:
        assert row["cost"] <= row["budget"]
        assert f"{row['quality']:.3f}" in printed
        assert set(row["more"]) == {"order of pairs", "same neighbour"}
        assert row["cost"] == count_macs(Genotype(row["genotype"]).apply(copy.deepcopy(encoder)), one)
    assert [row["cost"] == row["budget"] for row in content["networks"] if row["kind"] == "uniform"] == 3 * [True]
    found = torch.load(tmp_path / "out" / "found.pt", weights_only=False)
    again = example["AutoModel"].from_pretrained(tmp_path / "out" / "one_width")
    costs = {row["kind"]: row["cost"] for row in content["networks"][5:10]}
    for kind, bert in (("found", found), ("one width", again)):
        assert count_macs(example["Encoder"](bert, lr=0, steps=1), one) == costs[kind]

"""The example of elastic sizes: what is elastic is the plain network, and the program compares at equal cost."""

from __future__ import annotations

import json
import random
import runpy
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor

from advnas_lightning import Genotype, SearchSpace
from advnas_lightning.cost import count_parameters
from advnas_lightning.space.mixed_op import mixed_ops

EXAMPLES = Path(__file__).parents[2] / "examples"
VOCABULARY, WIDTH, LAYERS = 11, 64, 2


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(EXAMPLES)
    return runpy.run_path(str(EXAMPLES / "size_comparison.py")) | runpy.run_path(str(EXAMPLES / "elastic_gpt.py"))


def gpt(example: dict[str, Any], width: int = WIDTH) -> Any:
    torch.manual_seed(0)
    return example["GPT"](VOCABULARY, width=width, layers=LAYERS, steps=10)


def characters() -> Tensor:
    return torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))


def architecture(pick: Any) -> Genotype:
    heads, hidden = ("2", "4", "6", "8"), ("64", "128", "192", "256")
    edges = {f"{name} {n}": pick(sizes) for n in (1, 2) for name, sizes in (("heads", heads), ("hidden", hidden))}
    return Genotype({**edges, "layers": pick(("1", "2"))})


def test_the_widest_network_is_the_plain_one(example: dict[str, Any]) -> None:
    plain, searched = gpt(example), example["make_elastic"](gpt(example))
    assert SearchSpace(searched).size == 2 * (4 * 4) ** LAYERS
    widest = architecture(max_size).apply(searched)
    assert list(widest.state_dict()) == list(plain.state_dict())
    assert torch.equal(widest(characters()), plain(characters()))


def max_size(sizes: tuple[str, ...]) -> str:
    return sizes[-1]


def test_the_narrowest_network_has_the_parameters_of_the_formula_and_sees_no_later_character(
    example: dict[str, Any],
) -> None:
    network = architecture(lambda sizes: sizes[0]).apply(example["make_elastic"](gpt(example)))
    inside = 2 * example["HEAD"]
    layer = 3 * (WIDTH + 1) * inside + (inside + 1) * WIDTH + (WIDTH + 1) * 64 + (64 + 1) * WIDTH + 4 * WIDTH
    outside = (VOCABULARY + example["CONTEXT"] + 2) * WIDTH + (WIDTH + 1) * VOCABULARY
    assert count_parameters(network) == layer + outside
    before = characters()
    with torch.no_grad():
        logits = network(before)
        for time in range(12):
            after = before.clone()
            after[:, time] = (after[:, time] + 1) % VOCABULARY
            changed = (network(after) - logits).abs().amax((0, 2))  # [T]
            assert changed[:time].eq(0).all()
            assert changed[time:].gt(0).all()


def test_renewed_weights_are_those_of_a_new_network(example: dict[str, Any]) -> None:
    renewed = example["renewed"](gpt(example, width=32), seed=0)
    assert all(map(torch.equal, renewed.state_dict().values(), gpt(example, width=32).state_dict().values()))
    narrow = example["renewed"](architecture(lambda sizes: sizes[0]).apply(example["make_elastic"](gpt(example))), 0)
    down = narrow.blocks[0].down.weight.abs().max()
    assert 0.9 / 8 < down <= 1 / 8  # 64 inputs; it was a slice of a weight with 256, and at most 1/16


@pytest.mark.slow
@pytest.mark.parametrize("supernets", [False, True])
def test_the_program_compares_networks_of_equal_cost(
    example: dict[str, Any],
    supernets: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps: list[tuple[int, Any]] = []
    fit = Trainer.fit

    def noted(trainer: Trainer, model: Any, *arguments: Any, **keywords: Any) -> None:
        fit(trainer, model, *arguments, **keywords)
        steps.append((trainer.global_step, model))

    monkeypatch.setattr(Trainer, "fit", noted)
    (tmp_path / "text.txt").write_text(words())
    options = ["--text", tmp_path / "text.txt", "--output", tmp_path / "out", "--quick"]
    options += ["--supernets", "--strategy", "advantage"] if supernets else ["--searches", "--estimates"]
    example["main"](list(map(str, options)))
    found = json.loads((tmp_path / "out" / "sizes.json").read_text())
    (searched, search), *others = steps
    assert searched == search.weight_steps == 10
    assert search.architecture_steps == (2 if supernets else 0)
    searches = [] if supernets else [each for _, each in others[1:10]]  # behind a fit for the estimates' batches
    others, rows = others[0 if supernets else 10 :], found["networks"]
    trained, again = others[: len(rows)], others[len(rows) :]
    assert [number for number, _ in again] == ([10, 40] if supernets else [])
    for (number, network), row in zip(trained, rows, strict=True):
        assert number == 2
        assert not mixed_ops(network)
        assert row["cost"] == count_parameters(network) <= row["budget"]
        if row["genotype"]:
            derived = Genotype(row["genotype"]).apply(search.model)
            assert [tuple(each.shape) for each in derived.parameters()] == [
                tuple(each.shape) for each in network.parameters()
            ]
        if row["kind"] == "random":
            assert row["cost"] >= 0.9 * row["budget"]
    kinds = ["found", *([] if supernets else example["SEARCHES"]), "random", "uniform"]
    assert [row["kind"] for row in rows] == kinds * 3
    uniform = [row for row in rows if row["kind"] == "uniform"]
    assert [row["cost"] for row in uniform] == [row["budget"] for row in uniform]
    for index, each in enumerate(searches):
        assert each.architecture_steps > 0
        equal = torch.tensor([1 / len(row) for row in each.space.candidates])
        assert not torch.allclose(each.probs[:, 0], equal)  # it has learnt
        assert all(map(torch.equal, each.model.parameters(), search.model.parameters()))
        kind, budget = list(example["SEARCHES"])[index // 3], uniform[index % 3]["budget"]
        (row,) = (row for row in rows if row["kind"] == kind and row["budget"] == budget)
        assert row["genotype"] == dict(each.genotype(each.selected))
    assert set(found["agreements"]) == set(list(example["SUPERNETS"])[: 3 if supernets else 1])
    printed = capsys.readouterr().out
    assert ("counterfactual-exact" in printed) == (not supernets)  # a row of the estimates
    assert all(f"{row['quality']:.3f}" in printed for row in rows)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sizes.json", "sizes.png", "sizes.svg"}


def words() -> str:
    draw = random.Random(0)
    known = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(1, 6))) for _ in range(50)]
    return " ".join(draw.choices(known, k=8000))

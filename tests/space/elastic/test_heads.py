"""Attention with elastic heads computes what its first heads do alone, and what is found is a plain module."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advnas_lightning import Genotype, SearchSpace, elastic
from advnas_lightning.cost import count_macs, count_parameters, measure_costs
from advnas_lightning.export.network import export_network
from advnas_lightning.space.elastic.narrow_attention import NarrowAttention
from tests.support.elastic_net import HEADS as HEADS_OF_NET
from tests.support.elastic_net import AttentionNet
from tests.support.small_search import FEATURES

WIDTH, HEADS, HEAD, BATCH, QUERIES, KEYS = 12, 4, 3, 2, 5, 6
SIZES = [1, 3, 4]
EXACT = {"rtol": 0.0, "atol": 1e-10}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch_first": {"batch_first": True},
    "without bias": {"bias": False, "batch_first": True},
    "kdim and vdim": {"kdim": 7, "vdim": 8},
    "kdim without bias": {"kdim": 7, "bias": False},
    "add_bias_kv": {"add_bias_kv": True},
    "add_zero_attn": {"add_zero_attn": True, "batch_first": True},
    "both": {"add_bias_kv": True, "add_zero_attn": True, "kdim": 5},
}


def attention(**options: Any) -> nn.MultiheadAttention:
    module = nn.MultiheadAttention(WIDTH, HEADS, dtype=torch.double, **options)
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.5)
    return module


def searched(module: nn.MultiheadAttention) -> tuple[Any, SearchSpace]:
    edge = elastic(module, num_heads=SIZES, name="heads")
    return edge, SearchSpace(nn.ModuleList([edge]))


def found_of(edge: nn.Module, heads: int) -> Any:
    return Genotype({"heads": str(heads)}).apply(nn.ModuleList([edge]))[0]  # type: ignore[index]


def masks(batch: int) -> dict[str, dict[str, Any]]:
    """Masks of all kinds, of which none hides all keys of a query."""
    hidden = torch.rand(QUERIES, KEYS) < 0.4
    hidden[:, 0] = False
    each = torch.rand(batch * HEADS, QUERIES, KEYS) < 0.4
    each[..., 1] = False
    padding = torch.zeros(batch, KEYS, dtype=torch.bool)
    padding[-1, 4:] = True
    scores, causal = torch.randn(QUERIES, KEYS).double(), torch.ones(QUERIES, KEYS).triu(1).bool()
    return {
        "none": {},
        "hidden": {"attn_mask": hidden},
        "scores": {"attn_mask": scores},
        "hidden of each head": {"attn_mask": each},
        "scores of each head": {"attn_mask": torch.randn(batch * HEADS, QUERIES, KEYS).double()},
        "padding": {"key_padding_mask": padding},
        "scores of keys": {"key_padding_mask": torch.randn(batch, KEYS).double()},
        "padding and hidden": {"key_padding_mask": padding, "attn_mask": hidden & (hidden.sum(1, keepdim=True) < 3)},
        "scores of keys and of each head": {
            "key_padding_mask": torch.randn(batch, KEYS).double(),
            "attn_mask": torch.randn(batch * HEADS, QUERIES, KEYS).double(),
        },
        "causal": {"attn_mask": causal, "is_causal": True},
        "causal and padding": {"attn_mask": causal, "is_causal": True, "key_padding_mask": padding},
    }


def inputs_of(module: nn.MultiheadAttention, *, batched: bool) -> list[Tensor]:
    shapes = [(QUERIES, WIDTH), (KEYS, module.kdim), (KEYS, module.vdim)]
    made = [torch.randn(BATCH, *shape, dtype=torch.double) for shape in shapes]
    made = [each if module.batch_first else each.transpose(0, 1) for each in made] if batched else [x[0] for x in made]
    return [each.detach().requires_grad_() for each in made]


def sliced(name: str, value: Tensor, heads: int) -> Tensor:
    """What some heads use of a parameter, cut by hand."""
    first = slice(heads * HEAD)
    if name.startswith("in_proj"):
        return torch.cat([block[first] for block in value.chunk(3)])
    if name in ("bias_k", "bias_v", "out_proj.weight"):
        return value[..., first]
    return value if name == "out_proj.bias" else value[first]


def of_first_heads(module: nn.MultiheadAttention, heads: int) -> nn.MultiheadAttention:
    """PyTorch's own module with all heads, of which the others give nothing to the output."""
    reference = copy.deepcopy(module)
    with torch.no_grad():
        reference.out_proj.weight[:, heads * HEAD :] = 0
    return reference


QUICK = [("plain", False), ("batch_first", True), ("both", True)]
CASES = [
    pytest.param(name, batched, marks=[] if (name, batched) in QUICK else [pytest.mark.slow])
    for name in OPTIONS
    for batched in (True, False)
]


@pytest.mark.parametrize(("options", "batched"), CASES)
def test_heads_equal_those_of_pytorchs_module(options: str, batched: bool) -> None:
    """Forward and backward, in all forms of the output, for masks of all kinds."""
    module = attention(**OPTIONS[options])
    edge, space = searched(module)
    weights = dict(module.named_parameters())
    inputs = inputs_of(module, batched=batched)
    for heads in SIZES[:-1]:
        reference, found = of_first_heads(module, heads), found_of(edge, heads)
        for each in masks(BATCH if batched else 1).values():
            given = dict(each)
            if not batched and "key_padding_mask" in given:
                given["key_padding_mask"] = given["key_padding_mask"][0]
            expected, by_head = reference(*inputs, average_attn_weights=False, **given)
            by_head = by_head[..., :heads, :, :]
            with space.bind(space.one_hot([SIZES.index(heads)])):
                torch.testing.assert_close(
                    edge(*inputs, average_attn_weights=False, **given), (expected, by_head), **EXACT
                )
                torch.testing.assert_close(edge(*inputs, **given), (expected, by_head.mean(-3)), **EXACT)
                output, none = edge(*inputs, need_weights=False, **given)
            assert none is None
            torch.testing.assert_close(found(*inputs, **given), (expected, by_head.mean(-3)), **EXACT)
            # Without the weights PyTorch's module takes the hint of a causal mask in place of the mask.
            exact, _ = reference(*inputs, need_weights=False, **given)
            torch.testing.assert_close(output, exact, **EXACT)
            gradient = torch.randn_like(exact)
            left = torch.autograd.grad(output, [*inputs, *weights.values()], gradient)
            right = torch.autograd.grad(exact, [*inputs, *reference.parameters()], gradient)
            torch.testing.assert_close(left[:3], right[:3], **EXACT)
            for name, own, other in zip(weights, left[3:], right[3:], strict=True):
                part = sliced(name, own, heads)
                torch.testing.assert_close(part, sliced(name, other, heads), **EXACT)
                assert own.count_nonzero() == part.count_nonzero()  # nothing else of the parameter has a gradient


def plain(weights: dict[str, Tensor], heads: int, x: Tensor, dropout: float) -> Tensor:
    """Self-attention by the book, of sequences [L, B, E], with weights that were sliced by hand."""
    q, k, v = (
        (x @ weight.T + bias).unflatten(-1, (heads, HEAD)).permute(1, 2, 0, 3)
        for weight, bias in zip(weights["in_proj_weight"].chunk(3), weights["in_proj_bias"].chunk(3), strict=True)
    )
    scores = torch.einsum("bhld,bhsd->bhls", q, k) / HEAD**0.5
    mixed = torch.einsum("bhls,bhsd->lbhd", F.dropout(scores.softmax(-1), dropout), v)
    return mixed.flatten(2) @ weights["out_proj.weight"].T + weights["out_proj.bias"]


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("heads", SIZES[:-1])
def test_heads_equal_plain_attention_with_sliced_weights_also_under_dropout(heads: int, need_weights: bool) -> None:
    module = attention(dropout=0.4)
    edge, space = searched(module)
    small = {
        name: sliced(name, value.detach(), heads).clone().requires_grad_() for name, value in module.named_parameters()
    }
    x = torch.randn(QUERIES, BATCH, WIDTH, dtype=torch.double)
    for training in (True, False):
        edge.train(training)
        torch.manual_seed(0)
        with space.bind(space.one_hot([SIZES.index(heads)])):
            output, _ = edge(x, x, x, need_weights=need_weights)
        torch.manual_seed(0)
        expected = plain(small, heads, x, dropout=0.4 if training else 0.0)
        torch.testing.assert_close(output, expected, **EXACT)
        gradient = torch.randn_like(output)
        left = torch.autograd.grad(output, list(module.parameters()), gradient)
        right = torch.autograd.grad(expected, list(small.values()), gradient)
        for name, own, other in zip(small, left, right, strict=True):
            torch.testing.assert_close(sliced(name, own, heads), other, **EXACT)


def test_the_widest_candidate_is_the_module_bit_for_bit() -> None:
    module = attention(dropout=0.3, batch_first=True)
    before, attributes, x = copy.deepcopy(module), dict(vars(module)), torch.randn(2, 5, WIDTH, dtype=torch.double)
    edge, space = searched(module)
    for training, graph in itertools.product((True, False), (True, False)):
        edge.train(training)
        before.train(training)
        for index in range(len(SIZES)):
            with space.bind(space.one_hot([index])), torch.set_grad_enabled(graph):
                torch.manual_seed(0)
                output = edge(x, x, x)
        torch.manual_seed(0)
        with torch.set_grad_enabled(graph):
            for own, other in zip(output, before(x, x, x), strict=True):
                assert torch.equal(own, other)
    assert [id(weight) for weight in edge.parameters()] == [id(weight) for weight in module.parameters()]
    assert vars(module) == {**attributes, "training": False}
    found = found_of(edge, HEADS)
    assert type(found) is nn.MultiheadAttention
    assert vars(found).keys() == vars(module).keys()


@pytest.mark.parametrize("need_weights", [True, False])
def test_gate_gradients_are_finite_differences(need_weights: bool) -> None:
    """With all candidates mixed, their weights of each head have zeros for the heads that they do not have."""
    edge, space = searched(attention())
    x = torch.randn(QUERIES, BATCH, WIDTH, dtype=torch.double)
    gates = torch.rand(space.mask.shape, dtype=torch.double).requires_grad_()
    drawn: Any = type(space.one_hot([0]))

    def outputs(gates: Tensor) -> tuple[Tensor, ...]:
        with space.bind(drawn(gates, space.all_paths), gates):
            values, weights = edge(x, x, x, need_weights=need_weights, average_attn_weights=False)
        return values.square().mean(), torch.zeros(()) if weights is None else weights.square().sum(1)

    assert torch.autograd.gradcheck(outputs, gates, atol=1e-8)
    with space.bind(drawn(gates, space.all_paths), gates):
        values, weights = edge(x, x, x, average_attn_weights=False)
    candidates = [found_of(edge, heads)(x, x, x, average_attn_weights=False) for heads in SIZES]
    row = gates[0].detach()
    mixed = sum(gate * value for gate, (value, _) in zip(row, candidates, strict=True))
    torch.testing.assert_close(values, mixed, **EXACT)
    padded = [F.pad(each, (0, 0, 0, 0, 0, HEADS - each.shape[1])) for _, each in candidates]
    torch.testing.assert_close(weights, sum(gate * each for gate, each in zip(row, padded, strict=True)), **EXACT)


def found_in_a_layer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 8, dropout=0.0, batch_first=True)
    return Genotype({"heads": "3"}).apply(elastic(layer, num_heads=SIZES, name="heads")).eval()


def test_what_is_found_has_the_small_shapes_and_is_copied_and_stored() -> None:
    found: Any = found_of(searched(attention(add_bias_kv=True))[0], 3)
    assert {name: tuple(value.shape) for name, value in found.state_dict().items()} == {
        **{"in_proj_weight": (27, WIDTH), "in_proj_bias": (27,), "bias_k": (1, 1, 9), "bias_v": (1, 1, 9)},
        **{"out_proj.weight": (WIDTH, 9), "out_proj.bias": (WIDTH,)},
    }
    assert (found.num_heads, found.head_dim, found.embed_dim, found.out_proj.in_features) == (3, HEAD, WIDTH, 9)
    assert all(isinstance(weight, nn.Parameter) and weight.is_contiguous() for weight in found.parameters())
    x = torch.randn(QUERIES, BATCH, WIDTH, dtype=torch.double)
    expected = found(x, x, x)
    assert type(copy.deepcopy(found)) is NarrowAttention
    stored = io.BytesIO()
    torch.save(found, stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=False)
    again = pickle.loads(pickle.dumps(loaded))  # also of the class that the text has made
    for other in (copy.deepcopy(found), copy.copy(found), loaded, again):
        other.load_state_dict(found.state_dict(), strict=True)
        torch.testing.assert_close(other(x, x, x), expected, rtol=0, atol=0)
    assert b"advnas" not in pickle.dumps(found)


@pytest.mark.parametrize("kind", ["params", "macs"])
def test_costs_are_those_of_what_is_found(kind: str, make_search: Any) -> None:
    search = make_search("advantage", AttentionNet())
    x = torch.randn(3, FEATURES)
    table = measure_costs([kind], search.model, search.evaluator, (x, torch.zeros(3, dtype=torch.long)))[kind]
    for choice in itertools.product(range(len(HEADS_OF_NET)), range(2)):
        genotype = search.space.genotype(choice)
        network = genotype.apply(search.model)
        expected = count_parameters(network) if kind == "params" else count_macs(network, x) / len(x)
        assert table.fixed + sum(table.edges[edge][name] for edge, name in genotype.items()) == expected


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["py", "pt2", "torchscript"])
def test_what_is_found_is_exported(ending: str, tmp_path: Path) -> None:
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, add_bias_kv=True, add_zero_attn=True)
    layer: Any = nn.TransformerEncoderLayer(WIDTH, HEADS, 8, batch_first=True)
    layer.self_attn = elastic(attention, num_heads=SIZES, name="heads")
    found = Genotype({"heads": "3"}).apply(nn.Sequential(layer))
    exported = export_network(found, tmp_path / f"found.{ending}", torch.randn(2, 5, WIDTH))  # compares the outputs
    assert exported.sizes == [2, 1, 3]


@pytest.mark.slow
def test_a_found_layer_is_loaded_where_this_package_cannot_be_imported(tmp_path: Path) -> None:
    found, x = found_in_a_layer(), torch.randn(2, 5, WIDTH)
    torch.save((found, x, found(x)), tmp_path / "found.pt")
    script = (
        "import sys, torch\n"
        "class Blocked:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('advnas_lightning', 'tests'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        f"found, x, y = torch.load({str(tmp_path / 'found.pt')!r}, weights_only=False)\n"
        "print(torch.equal(found(x), y), found.self_attn.in_proj_weight.shape[0])\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.stdout == "True 27\n", run.stderr


@pytest.mark.parametrize("decoder", [False, True])
def test_heads_and_width_of_a_layer_are_cut(decoder: bool) -> None:
    kind: Any = nn.TransformerDecoderLayer if decoder else nn.TransformerEncoderLayer
    layer = kind(WIDTH, HEADS, 8, dropout=0.0, batch_first=True, dtype=torch.double)
    names = {"num_heads": "heads", "dim_feedforward": "ffn"}
    assert elastic(layer, num_heads=iter(SIZES), dim_feedforward=[3, 8], name=names) is layer
    space, x = SearchSpace(layer), torch.randn(2, 5, WIDTH, dtype=torch.double)
    assert sorted(space.edges) == ["ffn", "heads"]
    given = (x, torch.randn(2, 4, WIDTH, dtype=torch.double)) if decoder else (x,)
    for training, heads in itertools.product((True, False), SIZES):
        layer.train(training)
        genotype = Genotype({"heads": str(heads), "ffn": "3"})
        with space.bind(space.one_hot(space.choice(genotype))):
            expected = layer(*given)
        found = genotype.apply(layer)
        attentions = [module for module in found.modules() if isinstance(module, nn.MultiheadAttention)]
        assert [each.num_heads for each in attentions] == [heads] * (1 + decoder)
        torch.testing.assert_close(found(*given), expected, **EXACT)
        with torch.no_grad():  # with the fast path of PyTorch, which a layer with all heads has again
            torch.testing.assert_close(found(*given), expected, **EXACT)


def test_an_encoder_with_padded_sequences_is_found() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 8, dropout=0.0, batch_first=True, dtype=torch.double)
    encoder = nn.TransformerEncoder(layer, 2)
    for each in encoder.layers:
        elastic(each, num_heads=[2, 4], name="heads")
    net = nn.Sequential(encoder).eval()
    space, x = SearchSpace(net), torch.randn(2, 5, WIDTH, dtype=torch.double)
    padding = torch.arange(5) >= torch.tensor([[5], [3]])
    for index, heads in enumerate((2, 4)):
        found: Any = Genotype({"heads": str(heads)}).apply(net)
        assert found[0].use_nested_tensor is (heads == 4)
        with torch.no_grad():
            with space.bind(space.one_hot([index])):
                expected = encoder(x, src_key_padding_mask=padding)
            own = found[0](x, src_key_padding_mask=padding)
        torch.testing.assert_close(own[~padding], expected[~padding], **EXACT)


class OwnForward(nn.MultiheadAttention):
    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return super().forward(*inputs, **kwargs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: elastic(attention(), num_heads=[8], name="h"),
            "num_heads=8 of elastic 'h' cannot be: it is no whole number from 1 to the 4 that the MultiheadAttention",
        ),
        (lambda: elastic(attention(), heads=[1], name="h"), "a MultiheadAttention has no elastic size 'heads': it has"),
        (
            lambda: elastic(OwnForward(WIDTH, HEADS), num_heads=[1], name="h"),
            "a OwnForward has a forward pass of its own",
        ),
        (
            lambda: elastic(normalized(), num_heads=[1], name="h"),
            "a MultiheadAttention with a computed weight, as of weight_norm, pruning or LoRA, cannot be elastic",
        ),
    ],
)
def test_what_cannot_have_elastic_heads(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def normalized() -> nn.MultiheadAttention:
    module = attention()
    torch.nn.utils.parametrizations.weight_norm(module.out_proj)
    return module


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attn_mask": torch.zeros(QUERIES, 1)}, r"attn_mask has the shape \(5, 1\), and needs \(5, 5\)"),
        ({"attn_mask": torch.zeros(2, QUERIES, QUERIES)}, r"has the shape \(2, 1, 5, 5\), and needs \(2, 3, 5, 5\)"),
        ({"attn_mask": torch.zeros(QUERIES)}, r"attn_mask has the shape \(5,\), and needs \(5, 5\)"),
        ({"key_padding_mask": torch.zeros(1, QUERIES)}, r"key_padding_mask has the shape \(1, 5\), and needs \(2, 5\)"),
        ({"attn_mask": torch.zeros(QUERIES, QUERIES).long()}, "attn_mask has numbers of type torch.int64: give it as"),
        ({"is_causal": True}, "is_causal=True is a hint of what attn_mask is: give the mask with it"),
    ],
)
def test_masks_that_do_not_fit(given: dict[str, Any], message: str) -> None:
    found, x = found_of(searched(attention())[0], 3), torch.randn(QUERIES, BATCH, WIDTH, dtype=torch.double)
    with pytest.raises((ValueError, RuntimeError), match=message):
        found(x, x, x, **given)


def test_nested_tensors_are_refused() -> None:
    found = found_of(searched(attention(batch_first=True))[0], 3)
    nested = torch.nested.nested_tensor([torch.randn(n, WIDTH, dtype=torch.double) for n in (3, 5)])
    with pytest.raises(ValueError, match="attention with fewer heads takes no nested tensors: pad them, and give key_"):
        found(nested, nested, nested)

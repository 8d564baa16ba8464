"""Networks of timm and Hugging Face become elastic by rule. These packages are not needed otherwise."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import SearchSpace, make_searchable, widths
from advnas_lightning.space.elastic.rules import fit_config
from tests.support.refusals import one_line
from tests.support.small_search import CLASSES

Make = Callable[..., Any]
HALF = [0.5, 1.0]


def of_timm(name: str, **options: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    net: nn.Module = timm.create_model(name, num_classes=CLASSES, **options)
    return net


def small_vit(**options: Any) -> nn.Module:
    return of_timm("deit_tiny_patch16_224", img_size=32, embed_dim=8, depth=3, num_heads=2, **options)


class OfText(nn.Module):
    """A network of Hugging Face as a plain function of its input."""

    def __init__(self, net: nn.Module, given: str) -> None:
        super().__init__()
        self.net, self.given = net, given

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(**{self.given: x}).logits
        return found if found.dim() == 2 else found[:, -1]


def of_transformers(kind: str, head: str, **options: Any) -> nn.Module:
    """A tiny network with random weights."""
    transformers = pytest.importorskip("transformers")
    if kind == "ViT":
        own = {"image_size": 32, "patch_size": 16}
    else:
        own = {"vocab_size": 20, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(
        **{**own, "num_labels": CLASSES, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 4},
        **{"use_cache": False, "n_inner" if kind == "GPT2" else "intermediate_size": 16, **options},
    )
    return OfText(getattr(transformers, head)(config), "pixel_values" if kind == "ViT" else "input_ids")


# The network, its elastic sizes, and how many parameters the smallest sizes remove, counted by hand.
FFN = 8 * (8 + 1 + 8)  # of 8 of 16 features, between a stream of 8
HEADS = 3 * (4 * 8 + 4) + 8 * 4  # of half of the heads: rows of queries, keys and values, columns of what reads them
ATTENTION = 4 * (8 * 8 + 8)
ALL = {"ffn": HALF, "heads": HALF, "depth": [1, 3]}
TEXT: dict[str, tuple[Make, dict[str, Any], int]] = {
    "bert": (
        lambda: of_transformers("Bert", "BertForSequenceClassification"),
        ALL,
        FFN + HEADS + 2 * (ATTENTION + 16 * 17 + 8 + 2 * 16),
    ),
    "gpt2": (
        lambda: of_transformers("GPT2", "GPT2LMHeadModel"),
        ALL,
        FFN + HEADS + 2 * (ATTENTION + 16 * 17 + 8 + 2 * 16),
    ),
    # whose feed-forward part has three layers without biases, and its attention half as many keys and values
    "llama": (
        lambda: of_transformers("Llama", "LlamaForCausalLM", num_key_value_heads=2),
        ALL,
        8 * 3 * 8 + 4 * 8 + 2 * (2 * 8) + 8 * 4 + 2 * (3 * 8 * 16 + 3 * 8 * 8 + 2 * 8),
    ),
}
IMAGES: dict[str, tuple[Make, dict[str, Any], int]] = {
    "vit": (
        lambda: of_transformers("ViT", "ViTForImageClassification"),
        ALL,
        FFN + HEADS + 2 * (ATTENTION + 16 * 17 + 8 + 2 * 16),
    ),
    "deit": (small_vit, ALL, 16 * 17 + HEADS + 2 * (ATTENTION + 32 * 17 + 8 + 2 * 16)),
}
OTHERS: dict[str, tuple[Make, dict[str, Any]]] = {
    "roberta": (
        lambda: of_transformers("Roberta", "RobertaForSequenceClassification"),
        {"ffn": HALF, "heads": HALF, "depth": HALF},
    ),
    "electra": (
        lambda: of_transformers("Electra", "ElectraForSequenceClassification"),
        {"ffn": HALF, "heads": HALF, "depth": HALF},
    ),
    "mistral": (
        lambda: of_transformers("Mistral", "MistralForCausalLM", num_key_value_heads=2),
        {"ffn": HALF, "heads": HALF, "depth": HALF},
    ),
    "qwen2": (
        lambda: of_transformers("Qwen2", "Qwen2ForCausalLM", num_key_value_heads=2),
        {"ffn": HALF, "heads": HALF, "depth": HALF},
    ),
    "averaging vit": (lambda: small_vit(global_pool="avg"), {"ffn": HALF, "heads": HALF, "depth": HALF}),
    "distilled deit": (
        lambda: of_timm("deit_tiny_distilled_patch16_224", img_size=32, embed_dim=8, depth=3, num_heads=2),
        {"ffn": HALF, "heads": HALF, "depth": HALF},
    ),
    "efficientnet": (lambda: of_timm("efficientnet_lite0"), {"channels": HALF, "depth": HALF}),
    "squeezed": (lambda: of_timm("efficientnet_b0"), {"channels": HALF, "depth": HALF}),
    "edges": (lambda: of_timm("efficientnet_es"), {"channels": HALF}),
    "same padding": (lambda: of_timm("tf_mobilenetv3_small_075"), {"channels": HALF}),
    "convnext": (lambda: of_timm("convnext_atto"), {"ffn": HALF}),
    "resnet with pooling": (lambda: of_timm("resnet18d", zero_init_last=False), {"channels": HALF, "depth": HALF}),
    "resnet": (lambda: of_timm("resnet26"), {"channels": HALF, "depth": HALF}),
    "resnext": (lambda: of_timm("resnext50_32x4d"), {"channels": HALF}),
    "pre-activation resnet": (lambda: of_timm("resnetv2_18"), {"channels": HALF}),
    "pre-activation bottlenecks": (lambda: of_timm("resnetv2_50"), {"channels": HALF}),
    "regnet": (lambda: of_timm("regnetx_002"), {"channels": HALF}),
    "regnet with squeeze": (lambda: of_timm("regnety_002"), {"channels": HALF}),
    "densenet": (lambda: of_timm("densenet121"), {"channels": HALF}),
}


def inputs(name: str) -> Tensor:
    is_text = name in (*TEXT, "roberta", "electra", "mistral", "qwen2")
    return torch.randint(3, 20, (6, 5)) if is_text else torch.randn(6, 3, 32, 32)


def check(net: nn.Module, sizes: dict[str, Any], x: Tensor) -> tuple[nn.Module, nn.Module]:
    """The network as it was, and what is found with the smallest sizes."""
    plain = copy.deepcopy(net.eval())
    make_searchable(net, widths(**sizes))
    space = SearchSpace(net)
    assert {edge.rpartition(".")[2] for edge in space.edges} == set(sizes)
    with torch.no_grad():
        with space.bind(space.one_hot([len(row) - 1 for row in space.candidates])):
            assert torch.equal(net(x), plain(x))
        narrowest = [0] * len(space)
        with space.bind(space.one_hot(narrowest)):
            expected = net(x)
        found = space.genotype(narrowest).apply(net)
        torch.testing.assert_close(found(x), expected, rtol=0, atol=1e-6)
    drawn = space.one_hot(narrowest)
    gates = drawn.gates.clone().requires_grad_()
    with space.bind(drawn, gates):
        net.train()(x).square().sum().backward()
    assert gates.grad is not None
    depths = [index for index, edge in enumerate(space.edges) if edge.endswith("depth")]
    assert (gates.grad[depths, 0].abs() > 1e-6).all()
    return plain, found


def count(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


@pytest.mark.parametrize("name", [*TEXT, *IMAGES])
def test_a_network_becomes_a_smaller_one(name: str) -> None:
    make, sizes, removed = {**TEXT, **IMAGES}[name]
    plain, found = check(make(), sizes, inputs(name))
    assert count(plain) - count(found) == removed
    assert b"advnas" not in pickle.dumps(found.net if isinstance(found, OfText) else found)


@pytest.mark.parametrize("name", [*TEXT, *IMAGES])
def test_a_network_computes_the_same_in_another_order(name: str) -> None:
    make, sizes, _ = {**TEXT, **IMAGES}[name]
    net = make().double().eval()
    for weight in net.parameters():  # biases, too
        nn.init.normal_(weight, std=0.5)
    plain, x = copy.deepcopy(net), inputs(name)
    x = x.double() if x.is_floating_point() else x
    make_searchable(net, widths(**sizes, order_by="magnitude"))
    space = SearchSpace(net)
    with space.bind(space.one_hot([len(row) - 1 for row in space.candidates])):
        torch.testing.assert_close(net(x), plain(x), rtol=1e-9, atol=1e-9)
    moved = {key.replace("widest.", ""): value for key, value in net.state_dict().items()}
    assert any(not torch.equal(value, moved[key]) for key, value in plain.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_network_of_another_family_becomes_a_smaller_one(name: str) -> None:
    make, sizes = OTHERS[name]
    check(make(), sizes, inputs(name))


@pytest.mark.parametrize("strategy", ["advantage", "darts"])
@pytest.mark.parametrize("name", [*TEXT, *IMAGES])
def test_a_network_is_searched(name: str, strategy: str, make_search: Make, fit: Make) -> None:
    make, sizes, _ = {**TEXT, **IMAGES}[name]
    net = make()
    make_searchable(net, widths(**sizes), share=lambda edge, _: edge.rpartition(".")[2])
    search = make_search(strategy, net)
    before, x = search.theta.detach().clone(), inputs(name)
    loader = DataLoader(TensorDataset(x, torch.randint(CLASSES, (len(x),))), batch_size=3)
    fit(search, {"weights": loader, "architecture": loader})
    assert (search.theta != before).any(dim=1).all()  # every edge has a gradient
    found, space = search.derive().eval(), search.space
    with torch.no_grad(), space.bind(space.one_hot(space.choice(search.genotype(search.select)))):
        torch.testing.assert_close(found(x), search.model.eval()(x), rtol=0, atol=1e-6)
    again = pickle.loads(pickle.dumps(found))
    with torch.no_grad():
        assert torch.equal(again(x), found(x))


# The sizes that a config can say, and one that it cannot, with the reason.
SAVED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "bert": ({"ffn": HALF, "depth": [1, 3]}, {"heads": HALF}, "no config of a BertForSequenceClassification describes"),
    "gpt2": ({"ffn": HALF, "depth": [1, 3]}, {"heads": HALF}, "no config of a GPT2LMHeadModel describes the network"),
    "llama": (ALL, {"heads": [2, 4]}, ""),
    "qwen2": (ALL, {"heads": [2, 4]}, ""),  # whose config has the kind of attention of each layer
    "vit": (ALL, {"heads": [2, 4]}, ""),
}


@pytest.mark.parametrize("name", SAVED)
def test_what_is_found_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    sizes, others, reason = SAVED[name]
    make, x = {**TEXT, **IMAGES, **OTHERS}[name][0], inputs(name)

    def found(kinds: dict[str, Any], **options: Any) -> Any:
        net = make().eval()
        make_searchable(net, widths(**kinds), **options)
        space = SearchSpace(net)
        return space.genotype([0] * len(space)).apply(net)

    small = found(sizes)
    fit_config(small.net)
    small.net.save_pretrained(tmp_path)
    again = OfText(type(small.net).from_pretrained(tmp_path), small.given).eval()
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
    if reason:
        with one_line(reason, "save it with torch.save"):
            fit_config(found(others).net)
    net = make().eval()
    make_searchable(net, widths(ffn=HALF))
    space = SearchSpace(net)
    uneven: Any = space.genotype([0, 1, 1]).apply(net)
    before = uneven.net.config.to_dict()
    with one_line("a config has one ffn for all layers, and the network has 8, 16: search one for all with share="):
        fit_config(uneven.net)
    assert uneven.net.config.to_dict() == before


def test_a_cache_of_keys_is_no_output_that_can_be_mixed(make_search: Make, fit: Make) -> None:
    net = of_transformers("GPT2", "GPT2LMHeadModel", use_cache=True)
    make_searchable(net, widths(depth=[1, 3]))
    space, x = SearchSpace(net), inputs("gpt2")
    with space.bind(space.one_hot([0])):  # one candidate alone hands it on
        net(x)
    drawn = space.one_hot([0])
    with (
        pytest.raises(ValueError, match="only floating-point tensors are mixed, make all else equal"),
        space.bind(type(drawn)(torch.full((1, 2), 0.5), space.all_paths)),
    ):
        net(x)

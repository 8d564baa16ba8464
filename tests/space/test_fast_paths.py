"""Choices inside PyTorch's transformer layers count, in training and where those layers have a fast path."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from advnas_lightning import DARTS, AdvantageNAS, Architecture, Genotype, MixedOp, SearchSpace, make_searchable
from advnas_lightning.space import mixed_ops
from tests.support.refusals import one_line
from tests.support.replacements import Rules
from tests.support.speed import slow_but

WIDTH, HIDDEN = 8, 16
PADDING = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]]).bool()
CAUSAL = nn.Transformer.generate_square_subsequent_mask(4)
Call = Callable[[nn.Module], Tensor]


def attention(heads: int, **options: Any) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(WIDTH, heads, batch_first=True, **options)


class OwnAttention(nn.Module):
    """Not PyTorch's, with the attributes of its own that the layers read."""

    batch_first, in_proj_bias = True, None

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(WIDTH, WIDTH)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> tuple[Tensor, None]:
        return self.value(value), None


class Skip(nn.Module):
    """A layer that does nothing; an encoder asks its first layer for its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = attention(2)

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        return x


PARTS: dict[str, Callable[[Any], dict[str, nn.Module]]] = {
    "linear1": lambda own: {
        "own": own,
        "other": nn.Linear(WIDTH, HIDDEN),
        "no bias": nn.Linear(WIDTH, HIDDEN, bias=False),
        "low rank": nn.Sequential(nn.Linear(WIDTH, 2), nn.Linear(2, HIDDEN)),
    },
    "linear2": lambda own: {"own": own, "low rank": nn.Sequential(nn.Linear(HIDDEN, 2), nn.Linear(2, WIDTH))},
    "norm1": lambda own: {
        "own": own,
        "rms": nn.RMSNorm(WIDTH),
        "same eps": nn.RMSNorm(WIDTH, eps=1e-5),
        "none": nn.Identity(),
        "no weight": nn.LayerNorm(WIDTH, elementwise_affine=False),
    },
    "norm2": lambda own: {"own": own, "same eps": nn.RMSNorm(WIDTH, eps=1e-5)},
    "self_attn": lambda own: {
        "own": own,
        "one head": attention(1),
        "four heads": attention(4),
        "bias of keys": attention(2, add_bias_kv=True),
        "zeros": attention(2, add_zero_attn=True),
        "not PyTorch's": OwnAttention(),
    },
    "activation": lambda own: {"own": own, "gelu": nn.GELU(), "tanh": nn.GELU("tanh"), "silu": nn.SiLU()},
    "dropout": lambda own: {"own": own, "none": nn.Identity(), "tanh": nn.Tanh()},
    "dropout1": lambda own: {"own": own, "tanh": nn.Tanh()},
    "dropout2": lambda own: {"own": own, "tanh": nn.Tanh()},
}


def layer(**options: Any) -> nn.TransformerEncoderLayer:
    defaults = {"dropout": 0.1, "activation": nn.ReLU(), "batch_first": True}
    return nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, **{**defaults, **options})


def spread(model: nn.Module) -> nn.Module:
    """Weights that are no longer alike, with which everything that is left out shows."""
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.5)
    return model


@contextmanager
def slowly() -> Iterator[None]:
    """No fast paths at all: the independent way."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def same_everywhere(model: nn.Module, call: Call, *, count: int | None = None) -> None:
    """Each architecture gives what its found network does, and what that one does without any fast path."""
    space = SearchSpace(model)
    model.eval()
    # Those that differ from what PyTorch computes come first.
    choices = itertools.product(*(reversed(range(len(row))) for row in space.candidates))
    for choice in itertools.islice(choices, count):
        outputs = []
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode(), space.bind(space.one_hot(choice)):
                outputs.append(call(model))
        plain = space.genotype(choice).apply(model)
        assert not mixed_ops(plain)
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode():
                outputs.append(call(plain))
        with torch.no_grad(), slowly():
            independent = call(plain)
        for output in outputs:
            torch.testing.assert_close(output, independent, rtol=1e-5, atol=1e-5)


def padded(x: Tensor, model: nn.Module) -> Tensor:
    """The output at what is no padding. There PyTorch's fast path has zeros."""
    return model(x, src_key_padding_mask=PADDING).masked_fill(PADDING[..., None], 0)


@pytest.mark.parametrize("norm_first", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("part", PARTS)
def test_a_choice_counts_in_evaluation(part: str, norm_first: bool) -> None:
    model = nn.Sequential(layer(norm_first=norm_first))
    make_searchable(model, {f"0.{part}": PARTS[part]})
    same_everywhere(spread(model), lambda network: network(torch.ones(3, 4, WIDTH).cumsum(1)))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("at", slow_but([0, 1], [1]))
def test_a_choice_counts_in_an_encoder_of_padded_sequences(part: str, at: int) -> None:
    model = nn.TransformerEncoder(layer(), 2)
    make_searchable(model, {f"layers.{at}.{part}": PARTS[part]})
    x = torch.randn(3, 4, WIDTH)
    same_everywhere(spread(model), partial(padded, x))
    same_everywhere(model, lambda network: network(x, mask=CAUSAL), count=2)


def test_choices_together() -> None:
    model = nn.Sequential(layer())
    make_searchable(model, {f"0.{part}": PARTS[part] for part in ("norm1", "norm2", "activation")})
    same_everywhere(spread(model), lambda network: network(torch.ones(3, 4, WIDTH).cumsum(1)))


def test_choices_among_whole_layers() -> None:
    model = nn.TransformerEncoder(layer(), 2)
    wide = partial(nn.TransformerEncoderLayer, WIDTH, 4, 32, activation="gelu", batch_first=True)
    make_searchable(model, {"layers.*": lambda own: {"own": own, "skip": Skip(), "wide": wide()}})
    same_everywhere(spread(model), partial(padded, torch.randn(3, 4, WIDTH)))


@pytest.mark.parametrize("name", PARTS)
def test_choices_by_hand_are_found_when_the_search_is_made(name: str) -> None:
    model = nn.TransformerEncoder(layer(), 2)
    for part in model.layers:
        setattr(part, name, MixedOp("edge", PARTS[name](getattr(part, name))))
    same_everywhere(spread(model), partial(padded, torch.randn(3, 4, WIDTH)))


def test_an_encoder_copies_a_layer_that_has_a_choice() -> None:
    part = layer()
    part.activation = MixedOp("act", PARTS["activation"](part.activation))
    part.linear1 = MixedOp("up", PARTS["linear1"](part.linear1))
    model = nn.TransformerEncoder(part, 2)
    assert SearchSpace(model).edges == ("up", "act")
    same_everywhere(spread(model), partial(padded, torch.randn(3, 4, WIDTH)))


@pytest.mark.parametrize("part", PARTS)
def test_a_mixture_in_evaluation_is_that_of_the_candidates(part: str) -> None:
    model = nn.Sequential(layer())
    make_searchable(spread(model), {f"0.{part}": PARTS[part]})
    space = SearchSpace(model)
    x = torch.randn(3, 4, WIDTH)
    gates = torch.rand(space.mask.shape)
    model.eval()
    with space.bind(Architecture(gates, space.all_paths)):
        with torch.no_grad():
            mixed = model(x)
        training = model(x)  # which has no fast path, since weights are to be differentiated
    torch.testing.assert_close(mixed, training)


def test_a_network_that_was_never_searched_is_applied_alike() -> None:
    part = layer()
    part.activation = MixedOp("act", {"relu": part.activation, "silu": nn.SiLU()})
    x = torch.randn(3, 4, WIDTH)
    for name in ("relu", "silu"):
        plain = Genotype({"act": name}).apply(spread(nn.Sequential(part))).eval()
        with torch.no_grad(), slowly():
            independent = plain(x)
        with torch.no_grad():
            torch.testing.assert_close(plain(x), independent, rtol=1e-5, atol=1e-5)


def test_a_found_network_can_be_searched_again() -> None:
    model = nn.Sequential(layer())
    make_searchable(model, {"0.linear1": PARTS["linear1"]})
    again = Genotype({"0.linear1": "other"}).apply(model)
    make_searchable(again, {"0.linear1": PARTS["linear1"], "0.activation": PARTS["activation"]})
    same_everywhere(spread(again), lambda network: network(torch.ones(3, 4, WIDTH).cumsum(1)))


def test_a_transformer_with_an_encoder_and_a_decoder() -> None:
    model = nn.Transformer(WIDTH, 2, 1, 1, HIDDEN, batch_first=True)
    rules: Rules = {
        (nn.Linear, "**.linear1"): PARTS["linear1"],
        "decoder.layers.0.self_attn": PARTS["self_attn"],
        "decoder.layers.0.multihead_attn": PARTS["self_attn"],
    }
    make_searchable(model, rules)
    x = torch.randn(3, 4, WIDTH)
    same_everywhere(spread(model), lambda network: network(x, x.flip(1)), count=30)


# -- the fast paths of what is found ---------------------------------------------------------------------------------


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module, Call], int]:
    """How often a call uses the fused function."""
    own = torch._transformer_encoder_layer_fwd

    def count(model: nn.Module, call: Call) -> int:
        calls: list[int] = []
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *given: calls.append(1) or own(*given))
            call(model.eval())
        return len(calls)

    return count


def test_a_found_network_is_as_fast_as_before(fused: Callable[..., int]) -> None:
    call = partial(padded, torch.randn(3, 4, WIDTH))
    model = nn.TransformerEncoder(layer(activation="relu"), 2)
    assert fused(model, call) == 2
    make_searchable(model, {(nn.Linear, "**.linear1"): PARTS["linear1"]})
    space = SearchSpace(model)
    with space.bind(space.one_hot([0, 0])):
        assert fused(model, call) == 0
    edges = space.edges
    for first, second, calls in (("own", "other", 2), ("own", "low rank", 1), ("no bias", "low rank", 0)):
        plain = Genotype(dict(zip(edges, (first, second), strict=True))).apply(model)
        assert fused(plain, call) == calls
        assert plain.use_nested_tensor == (calls == 2)
        assert not any("before_search" in name for module in plain.modules() for name in vars(module))


def test_the_found_activation_is_the_one_that_the_fast_path_computes() -> None:
    model = layer()
    make_searchable(model, {"activation": PARTS["activation"]})
    flags = {
        name: Genotype({"activation": name}).apply(model).activation_relu_or_gelu for name in PARTS["activation"](0)
    }
    assert flags == {"own": 1, "gelu": 2, "tanh": 0, "silu": 0}


def test_a_layer_that_had_no_fast_path_gets_none() -> None:
    class Other(nn.TransformerEncoderLayer):
        def _ff_block(self, x: Tensor) -> Tensor:
            return super()._ff_block(x).tanh()

    model = Other(WIDTH, 2, HIDDEN, batch_first=True)
    model.activation_relu_or_gelu = 0  # since its own method would be left out
    make_searchable(model, {"linear1": PARTS["linear1"]})
    assert Genotype({"linear1": "own"}).apply(model).activation_relu_or_gelu == 0
    same_everywhere(spread(model), lambda network: network(torch.ones(3, 4, WIDTH).cumsum(1)))


def test_layers_and_encoders_without_a_choice_are_left_alone(fused: Callable[..., int]) -> None:
    model = nn.Sequential(nn.TransformerEncoder(layer(activation="relu"), 2), nn.Linear(WIDTH, WIDTH))
    untouched = copy.deepcopy(model)
    make_searchable(model, {"1": lambda own: {"own": own, "skip": nn.Identity()}})
    space = SearchSpace(model)
    x = torch.randn(3, 4, WIDTH)
    with space.bind(space.one_hot([0])):
        assert fused(model, lambda network: network(x)) == 2
    assert [vars(module).keys() for module in model[0].modules()] == [
        vars(module).keys() for module in untouched[0].modules()
    ]


# -- a search ----------------------------------------------------------------------------------------------------------


class Tagger(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.TransformerEncoder(layer(), 2), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x.unflatten(1, (4, 1)).expand(-1, -1, WIDTH)).mean(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1] % 2)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), lr=0.05)


@pytest.mark.parametrize("kind", slow_but([AdvantageNAS, DARTS], [AdvantageNAS]))
def test_a_search_learns_of_every_choice_in_a_layer(
    kind: Any, make_loaders: Callable[..., Any], fit: Callable[..., Any], recwarn: pytest.WarningsRecorder
) -> None:
    module = Tagger()
    made = make_searchable(module, {f"encoder.layers.0.{part}": make for part, make in PARTS.items()})
    search = kind(module, architecture_optimizer=partial(Adam, lr=0.1))
    trainer = fit(search, make_loaders(weights=6, architecture=6), make_loaders()["weights"], max_epochs=3)
    start = torch.ones_like(search.theta)
    moved = (search.theta - start).abs().where(search.space.mask, 0).sum(1).ne(0)
    assert dict(zip(made, moved.tolist(), strict=True)) == dict.fromkeys(made, True)
    assert not [each for each in recwarn if "did not run" in str(each.message)]

    found = search.derive().eval()
    batches = list(make_loaders()["weights"])
    with torch.no_grad():
        losses = torch.stack([F.cross_entropy(found(x), y % 2) for x, y in batches])
    torch.testing.assert_close(trainer.callback_metrics["loss"], losses.mean(), rtol=1e-5, atol=1e-6)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_is_read_and_never_called_is_refused_at_once() -> None:
    model = nn.Sequential(layer())
    with one_line("'0.self_attn.out_proj'", "reads its weight", "return None"):
        make_searchable(model, {nn.Linear: lambda own: {"own": own, "other": copy.deepcopy(own)}})
    assert not mixed_ops(model)
    inside = nn.modules.linear.NonDynamicallyQuantizableLinear
    made = make_searchable(
        model, {nn.Linear: lambda own: None if isinstance(own, inside) else {"own": own, "other": copy.deepcopy(own)}}
    )
    assert list(made) == ["0.linear1", "0.linear2"]


@pytest.mark.parametrize("lacking", ["batch_first", "in_proj_bias"])
def test_an_attention_that_lacks_what_the_layer_reads_is_refused_at_once(lacking: str) -> None:
    class Bare(nn.Module):
        pass

    candidate = Bare()
    vars(candidate).update({name: None for name in ("batch_first", "in_proj_bias") if name != lacking})
    with one_line("'bare'", "'0.self_attn'", repr(lacking)):
        make_searchable(nn.Sequential(layer()), {"0.self_attn": lambda own: {"own": own, "bare": candidate}})


def test_a_layer_is_not_run_without_an_architecture() -> None:
    model = layer(activation=nn.ReLU())
    make_searchable(model, {"activation": PARTS["activation"]})
    with torch.no_grad(), pytest.raises(RuntimeError, match="no architecture"):
        model.eval()(torch.ones(3, 4, WIDTH))


def test_all_that_a_candidate_lacks_beside_the_layer_is_named_at_once() -> None:
    with one_line("'none'", "the attribute 'batch_first', True or False, and the attribute 'in_proj_bias', None"):
        make_searchable(nn.Sequential(layer()), {"0.self_attn": lambda own: {"own": own, "none": nn.Identity()}})

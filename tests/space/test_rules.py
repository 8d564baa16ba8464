"""Rules that make a network searchable."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torchvision.models import resnet18

from advnas_lightning import AdvantageNAS, Genotype, MixedOp, SearchSpace, make_searchable
from advnas_lightning.objectives import Classification
from tests.support.replacements import Rules, activations


def linears(linear: nn.Linear) -> dict[str, nn.Module]:
    return {"linear": linear, "low_rank": nn.Sequential(nn.Linear(linear.in_features, 2), nn.Linear(2, 4))}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"linear": nn.Linear(4, 4), "act": nn.ReLU(inplace=True)})

    def forward(self, x: Tensor) -> Tensor:
        return self.inner["act"](self.inner["linear"](x))


class Small(nn.Module):
    """Modules in all of torch's containers; one activation at two places, one absent."""

    def __init__(self) -> None:
        super().__init__()
        self.tied = nn.ReLU()
        self.layers = nn.ModuleList([Block(), nn.Sequential(nn.Linear(4, 4), self.tied)])
        self.register_module("none", None)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.tied(self.head(x))


def small(*, train: bool = True) -> Small:
    torch.manual_seed(0)
    return Small().train(train)


def fingerprint(model: nn.Module) -> list[Any]:
    return [
        (name, id(module), module.training, getattr(module, "inplace", None))
        for name, module in model.named_modules(remove_duplicate=False)
    ]


def refused(model: nn.Module, rules: Rules, **options: Any) -> str:
    """The message, after a look at the model: all of it is as it was."""
    before = fingerprint(model)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make_searchable(model, rules, **options)
    assert fingerprint(model) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def original(model: nn.Module) -> Genotype:
    """The choice of every edge's first candidate."""
    space = SearchSpace(model)
    return space.genotype([0] * len(space))


# -- a network of torchvision's --------------------------------------------------------------------------------------


def convolutions(conv: nn.Conv2d) -> dict[str, nn.Module]:
    wide, deep, stride = conv.in_channels, conv.out_channels, conv.stride
    depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
    separable = nn.Sequential(depthwise, nn.Conv2d(wide, deep, 1, bias=False))
    skip = {"skip": nn.Identity()} if stride == (1, 1) and wide == deep else {}
    return {"conv": conv, "separable": separable, **skip}


def searchable_resnet() -> tuple[nn.Module, nn.Module, Any]:
    torch.manual_seed(0)
    model = resnet18(weights=None, num_classes=3)
    untouched = copy.deepcopy(model)
    return model, untouched, make_searchable(model, {nn.ReLU: activations, "layer3.*.conv?": convolutions})


def test_resnet_in_a_few_lines() -> None:
    model, untouched, made = searchable_resnet()
    relus = {name for name, module in untouched.named_modules() if isinstance(module, nn.ReLU)}
    convs = {f"layer3.{block}.conv{index}" for block in (0, 1) for index in (1, 2)}
    assert set(made) == relus | convs
    space = SearchSpace(model)
    assert space.edges == tuple(made)
    assert space.size == 3**9 * 2 * 3**3
    assert made["layer3.0.conv1"] == ("conv", "separable")
    assert made["layer3.1.conv2"] == ("conv", "separable", "skip")

    x = torch.randn(2, 3, 32, 32)
    untouched.eval()
    assert torch.equal(original(model).apply(model).eval()(x), untouched(x))
    model.train()
    architecture = space.one_hot([len(row) - 1 for row in space.candidates])
    gates = architecture.gates.clone().requires_grad_()
    with space.bind(architecture, gates):
        model(x).square().mean().backward()
    assert (gates.grad.ne(0) == architecture.gates.bool()).all()

    genotype = space.genotype([len(row) - 1 for row in space.candidates])
    plain = genotype.apply(model)
    by_hand = resnet18(weights=None, num_classes=3)
    for name in relus:
        by_hand.get_submodule(name.rpartition(".")[0]).relu = nn.SiLU()
    for name in convs - {"layer3.0.conv1"}:
        setattr(by_hand.get_submodule(name[:-6]), name[-5:], nn.Identity())
    by_hand.layer3[0].conv1 = convolutions(by_hand.layer3[0].conv1)["separable"]
    by_hand.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(by_hand.eval()(x), plain.eval()(x))


def test_a_state_from_before_is_loaded_into_the_modules_that_stood_there() -> None:
    plain, searchable = nn.Sequential(nn.Linear(4, 4), nn.PReLU()), nn.Sequential(nn.Linear(4, 4), nn.PReLU())
    plain[1].weight.data.fill_(2.0)
    make_searchable(searchable, {nn.Linear: linears, nn.PReLU: lambda act: {"relu": nn.ReLU(), "prelu": act}})
    found = searchable.load_state_dict(plain.state_dict(), strict=False)
    assert found.unexpected_keys == []
    assert all(name.startswith("0.candidates.low_rank.") for name in found.missing_keys)
    x = torch.randn(3, 4)
    assert torch.equal(Genotype({"0": "linear", "1": "prelu"}).apply(searchable)(x), plain(x))


# -- what is replaced ------------------------------------------------------------------------------------------------


def test_types_and_patterns_reach_into_all_containers() -> None:
    model = small()
    linear, relu = model.layers[0].inner["linear"], model.layers[0].inner["act"]
    made = make_searchable(model, {"layers.**.linear": linears, nn.ReLU: activations})
    assert dict(made) == {
        "tied": ("relu", "gelu", "silu"),
        "layers.0.inner.linear": ("linear", "low_rank"),
        "layers.0.inner.act": ("relu", "gelu", "silu"),
        "layers.1.1": ("relu", "gelu", "silu"),
    }
    assert SearchSpace(model).edges == ("tied", "layers.0.inner.linear", "layers.0.inner.act")
    assert model.layers[0].inner["linear"].candidates["linear"] is linear
    assert model.layers[0].inner["act"].candidates["relu"] is relu
    assert isinstance(model.layers[1][0], nn.Linear)
    assert [*model._modules] == ["tied", "layers", "none", "head"]


def test_the_originals_everywhere_give_the_original_network() -> None:
    model, untouched = small(), small()
    make_searchable(model, {nn.Linear: linears, nn.ReLU: activations})
    x = torch.randn(5, 4)
    space = SearchSpace(model)
    with space.bind(space.one_hot([0] * len(space))):
        assert torch.equal(model(x), untouched(x))
    plain = original(model).apply(model)
    assert list(plain.state_dict()) == list(untouched.state_dict())
    assert torch.equal(plain(x), untouched(x))
    assert plain.tied is plain.layers[1][1]


def test_a_type_matches_its_subclasses() -> None:
    class Own(nn.ReLU):
        pass

    assert set(make_searchable(nn.Sequential(nn.Tanh(), Own()), {nn.ReLU: activations})) == {"1"}


def test_a_module_at_several_places_becomes_one_choice_whichever_name_matched() -> None:
    for pattern in ("tied", "layers.1.1"):
        model, calls = small(), []
        made = make_searchable(model, {pattern: lambda relu, calls=calls: calls.append(relu) or activations(relu)})
        assert set(made) == {"tied", "layers.1.1"}
        assert made.edges == {"tied": "tied", "layers.1.1": "tied"}
        assert model.tied is model.layers[1][1]
        assert len(calls) == 1


def test_what_was_replaced_is_left_alone_inside() -> None:
    block = Block()
    model = nn.Sequential(block, nn.Sequential(block), nn.ReLU())
    made = make_searchable(model, {"0": lambda block: {"block": block, "skip": nn.Identity()}, nn.ReLU: activations})
    assert set(made) == {"0", "1.0", "2"}
    assert model[0] is model[1][0]
    assert model[0].candidates["block"] is block
    assert isinstance(block.inner["act"], nn.ReLU)


def test_choices_that_are_there_already_stay() -> None:
    edge = MixedOp("mine", {"relu": nn.ReLU(), "tanh": nn.Tanh()})
    model = nn.Sequential(edge, nn.ReLU())
    assert set(make_searchable(model, {nn.ReLU: activations})) == {"1"}
    assert model[0] is edge
    assert SearchSpace(model).edges == ("mine", "1")
    assert "matches no module" in refused(edge, {nn.ReLU: activations})


def test_shared_edges_share_a_choice() -> None:
    model = small()
    made = make_searchable(model, {nn.ReLU: activations}, share=lambda name, module: name.partition(".")[0])
    assert made.edges == {"tied": "tied", "layers.0.inner.act": "layers", "layers.1.1": "tied"}
    model = small()
    made = make_searchable(model, {nn.ReLU: activations}, share=lambda name, module: type(module).__name__)
    assert SearchSpace(model).edges == ("ReLU",)
    assert model.tied is not model.layers[0].inner["act"]


def test_new_candidates_take_the_mode_of_what_they_replace() -> None:
    model = small(train=False)
    model.head.train()
    make_searchable(model, {nn.Linear: lambda old: {"old": old, "new": nn.Dropout()}})
    assert {module.training for module in model.head.modules()} == {True}
    assert {module.training for module in model.layers.modules()} == {False}
    frozen = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4).eval()))
    make_searchable(frozen, {"0": lambda old: {"old": old, "new": nn.Identity()}})
    assert not frozen[0].candidates["old"][1].training


def test_the_result_is_a_readable_table() -> None:
    made = make_searchable(small(), {nn.ReLU: activations}, share=lambda name, module: type(module).__name__)
    assert str(made).splitlines() == [
        "module              edge  candidates",
        "tied                ReLU  relu, gelu, silu",
        "layers.0.inner.act  ReLU  relu, gelu, silu",
        "layers.1.1          ReLU  relu, gelu, silu",
    ]
    assert len(made) == 3
    with pytest.raises(TypeError):
        made["tied"] = ()  # type: ignore[index]


def test_a_search_trains_what_was_made_searchable(make_loaders: Callable[..., Any], fit: Callable[..., Any]) -> None:
    model = small()
    make_searchable(model, {nn.Linear: linears, nn.ReLU: activations})
    search = AdvantageNAS(
        model,
        objective=Classification(4),
        weight_optimizer=partial(SGD, lr=0.1),
        architecture_optimizer=partial(Adam, lr=0.1),
    )
    fit(search, make_loaders(weights=6, architecture=6))
    assert search.architecture_steps == 6
    plain = search.genotype().apply(model)
    assert plain(torch.zeros(8, 4)).shape == (8, 4)
    assert not any(isinstance(module, MixedOp) for module in plain.modules())


# -- a type at a place, and modules that are left as they are ---------------------------------------------------------


def test_a_pair_matches_where_both_do() -> None:
    made = make_searchable(small(), {(nn.Linear, "layers.**"): linears})
    assert list(made) == ["layers.0.inner.linear", "layers.1.0"]
    made = make_searchable(small(), {(nn.Linear, "*"): linears, (nn.ReLU, "layers.0.**"): activations})
    assert list(made) == ["layers.0.inner.act", "head"]
    inside = make_searchable(nn.Sequential(nn.Sequential(nn.ReLU())), {(nn.Sequential, "**"): lambda old: {"old": old}})
    assert list(inside) == ["0"]  # the network itself is at no place


def test_a_pattern_that_is_a_name_matches_that_name_alone() -> None:
    layers = {"a[0]": nn.ReLU(), "a0": nn.ReLU(), "a?": nn.ReLU()}
    for rule, names in {"a[0]": ["a[0]"], "a?": ["a?"], "a*": list(layers), "a[[]0]": ["a[0]"], "?[0]": ["a0"]}.items():
        assert list(make_searchable(nn.ModuleDict(layers), {rule: activations})) == names
        assert list(make_searchable(nn.ModuleDict(layers), {(nn.ReLU, rule): activations})) == names


def test_a_rule_may_decline_a_module() -> None:
    model = small()
    first = model.layers[0].inner["linear"]
    made = make_searchable(model, {nn.Linear: lambda old: None if old is first else linears(old), nn.ReLU: activations})
    assert list(made) == ["tied", "layers.0.inner.act", "layers.1.0", "layers.1.1", "head"]
    assert model.layers[0].inner["linear"] is first


def test_a_declined_module_is_open_inside_and_asked_for_once() -> None:
    first, second = Block(), Block()
    model = nn.Sequential(first, second, nn.Sequential(first))
    asked: list[nn.Module] = []

    def only_second(block: nn.Module) -> Any:
        asked.append(block)
        return {"block": block, "skip": nn.Identity()} if block is second else None

    made = make_searchable(model, {Block: only_second, nn.ReLU: activations})
    assert list(made) == ["0.inner.act", "1", "2.0.inner.act"]
    assert asked == [first, second]


def test_nested_modules_of_a_type_are_asked_for_from_the_outside() -> None:
    model = nn.Sequential(nn.Sequential(nn.Sequential(nn.ReLU()), nn.ReLU()))
    outer, inner = model[0], model[0][0]
    asked: list[nn.Module] = []

    def only_inner(block: nn.Module) -> Any:
        asked.append(block)
        return {"block": block, "skip": nn.Identity()} if block is inner else None

    assert list(make_searchable(model, {(nn.Sequential, "**"): only_inner})) == ["0.0"]
    assert asked == [outer, inner]


def test_a_rule_that_declines_all_is_refused() -> None:
    message = refused(small(), {nn.ReLU: activations, nn.Linear: lambda old: None})
    assert all(part in message for part in ("Linear", "replaces nothing", "returns None", "layers.1.0", "head")), (
        message
    )
    rules: Rules = {"layers.0": lambda block: {"block": block}, (nn.Linear, "layers.0.**"): linears}
    message = refused(small(), rules)
    assert all(part in message for part in ("(Linear, 'layers.0.**')", "'layers.0.inner.linear'", "inside")), message


def test_a_choice_reaches_what_a_module_keeps_of_its_children() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.ReLU(), nn.ReLU()
            first = self.first
            self.listed, self.named = [[self.first]], {"second": self.second}
            self.listed.append(self.listed)  # a list that holds itself
            self.pair = (self.second, "text")
            self.weak, self.method = weakref.ref(self.second), self.second.forward
            self.closure, self.default = lambda x: first(x), lambda x, layer=first: layer(x)
            self.partial = partial(nn.Sequential.__call__, self.second)
            forward, layers = self.first.forward, [self.second]
            self.of_method, self.of_list = lambda x: forward(x), lambda x: layers[0](x)
            object.__setattr__(self, "alias", self.first)

        def forward(self, x: Tensor) -> Tensor:
            kept = self.listed[0][0](x) + self.named["second"](x) + self.pair[0](x) + self.alias(x) + self.weak()(x)
            kept = kept + self.method(x) + self.closure(x) + self.default(x) + self.partial(x)
            return kept + self.of_method(x) + self.of_list(x)

    model = nn.Sequential(Keeps())
    make_searchable(model, {nn.ReLU: lambda old: {"old": old, "tanh": nn.Tanh()}})
    space = SearchSpace(model)
    x = torch.randn(5)
    with space.bind(space.one_hot([1, 1])):
        torch.testing.assert_close(model(x), 11 * x.tanh())
    plain = space.genotype([1, 1]).apply(model)
    torch.testing.assert_close(plain(x), 11 * x.tanh())
    assert plain[0].listed[0][0] is plain[0].first is plain[0].alias
    assert isinstance(model[0].first.candidates["old"], nn.ReLU)
    assert plain[0].pair[0] is plain[0].second


def test_hooks_run_with_all_candidates(recwarn: pytest.WarningsRecorder) -> None:
    class Sees(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.seen, self.gradients = nn.ReLU(), None, 0
            self.handle = self.act.register_forward_hook(self.see)
            self.act.register_forward_hook(lambda module, given, named, y: y + 1, with_kwargs=True, always_call=True)
            self.act.register_full_backward_hook(self.count)

        def see(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.seen = output

        def count(self, *_: Any) -> None:
            self.gradients += 1

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(x)
            return y * self.seen if self.handle is not None else y

    model = nn.Sequential(Sees())
    make_searchable(model, {nn.ReLU: lambda old: {"relu": old, "tanh": nn.Tanh()}})
    assert not recwarn
    space = SearchSpace(model)
    x = torch.randn(5, requires_grad=True)
    for choice, expected in enumerate((x.relu(), x.tanh())):
        plain = space.genotype([choice]).apply(model)
        with space.bind(space.one_hot([choice])):
            bound = model(x)
        torch.testing.assert_close(bound, (expected + 1) * expected)
        torch.testing.assert_close(plain(x), bound)
        plain[0].gradients = model[0].gradients = 0
        plain(x).sum().backward()
        assert (plain[0].gradients, model[0].gradients) == (1, 0)
        bound.sum().backward()
        assert (plain[0].gradients, model[0].gradients) == (1, 1)
    model[0].handle.remove()
    model[0].handle = None
    with space.bind(space.one_hot([1])):
        torch.testing.assert_close(model(x), x.tanh() + 1)


def test_hooks_that_only_one_candidate_has_are_pointed_out(recwarn: pytest.WarningsRecorder) -> None:
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 3)), nn.Linear(3, 3), nn.Linear(3, 3))
    make_searchable(model, {nn.Linear: lambda old: {"old": old, "skip": nn.Identity()}})
    assert not recwarn
    for kept, where in ((True, "stays with its candidate 'old'"), (False, "goes with it")):
        model = nn.Sequential(nn.Linear(3, 3))
        model[0].register_forward_pre_hook(lambda module, inputs: None)
        with pytest.warns(UserWarning, match=f"'0' has a hook before its pass, and it {where}"):
            make_searchable(model, {"0": lambda old, kept=kept: {"old": old if kept else nn.Identity()}})


def test_an_attribute_that_a_choice_hides_is_pointed_out() -> None:
    class Named(nn.ReLU):
        name = "mine"

    with pytest.warns(UserWarning, match="'0' has an attribute 'name', and so has a choice.*edge '0'") as caught:
        make_searchable(nn.Sequential(Named(), nn.ReLU()), {nn.ReLU: activations})
    assert len(caught) == 1


# -- what is refused -------------------------------------------------------------------------------------------------


def never(module: nn.Module) -> dict[str, nn.Module]:
    raise AssertionError("called")


@pytest.mark.parametrize(
    ("rules", "parts"),
    [
        ({}, ["rules is empty"]),
        ({"layers.0.iner.act": never}, ["'layers.0.iner.act'", "matches no module", "layers.0.inner.act"]),
        ({"": never}, ["''", "the network itself"]),
        ({nn.ReLU: never, nn.Bilinear: never}, ["Bilinear", "matches no module", "has Linear"]),
        ({nn.ReLU: never, "tied": never}, ["'tied' is matched by ReLU and 'tied'"]),
        ({nn.ReLU: never, nn.Module: never}, ["Module", "the network itself"]),
        ({Small: never}, ["Small", "the network itself"]),
        ({3: never}, ["3 is no rule"]),
        ({Tensor: never}, ["torch.Tensor", "is no rule"]),
        ({(nn.ReLU, nn.Linear): never}, ["is no rule", "(nn.Conv2d, 'layer3.**')"]),
        ({("layers.**", nn.ReLU): never}, ["is no rule"]),
        ({(nn.ReLU, "layers.**", "x"): never}, ["is no rule"]),
        ({(nn.ReLU,): never}, ["is no rule"]),
        ({"layers.*act": never}, ["* does not match dots, ** does", "did you mean 'layers.**.*act'"]),
        ({"*.inner.act": never}, ["did you mean '**.inner.act'"]),
        ({(nn.ReLU, "layers.*"): never}, ["(ReLU, 'layers.*')", "'layers.*' has no ReLU", "'tied' is one"]),
        ({(nn.ReLU, "nowhere.**"): never}, ["'nowhere.**' matches no module"]),
        ({(nn.Bilinear, "layers.**"): never}, ["Bilinear matches no module"]),
        ({"head": {"head": nn.Identity()}}, ["the rule 'head' has a dict: give a function"]),  # type: ignore[dict-item]
    ],
    ids=["empty", "name", "root", "type", "both", "module", "own", "number", "tensor", *map(str, range(10))],
)
def test_a_bad_rule_is_named_before_anything_is_called(rules: Rules, parts: list[str]) -> None:
    message = refused(small(), rules)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("made", "parts"),
    [
        ({}, ["no candidates"]),
        ([nn.ReLU()], ["no candidates"]),
        ({"a.b": nn.ReLU()}, ["'a.b'"]),
        ({"skip": None}, ["'skip'", "None"]),
        ({"deep": nn.Sequential(MixedOp("inner", {"skip": nn.Identity()}))}, ["'deep'", "'inner'", "nested"]),
    ],
    ids=["empty", "list", "dot", "no module", "nested"],
)
def test_bad_candidates_name_the_module_and_leave_the_others(made: Any, parts: list[str]) -> None:
    message = refused(small(), {nn.ReLU: activations, "head": lambda linear: made})
    assert all(part in message for part in [*parts, "'head'"]), message


def test_a_function_that_fails_leaves_the_network() -> None:
    model = small()
    before = fingerprint(model)
    with pytest.raises(AssertionError, match="called"):
        make_searchable(model, {nn.ReLU: activations, "head": never})
    assert fingerprint(model) == before


def test_different_candidates_on_one_edge_are_refused() -> None:
    rules: Rules = {nn.ReLU: activations, nn.Linear: linears}
    message = refused(small(), rules, share=lambda name, module: "one")
    assert all(part in message for part in ("'layers.0.inner.linear'", "'one'", "linear, low_rank", "relu, gelu, silu"))
    model = nn.Sequential(MixedOp("1", {"relu": nn.ReLU(), "tanh": nn.Tanh()}), nn.ReLU())
    assert "relu, tanh" in refused(model, {nn.ReLU: activations})
    assert "None" in refused(small(), {nn.ReLU: activations}, share=lambda name, module: None)


def test_a_candidate_that_holds_a_replaced_place_is_refused() -> None:
    model = small()
    message = refused(model, {"head": lambda head: {"head": head, "block": model.layers[0]}, nn.ReLU: activations})
    assert all(part in message for part in ("'block'", "'head'", "'layers.0.inner.act'", "nested")), message


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_is_compiled_already_is_refused() -> None:
    model = nn.Sequential(torch.compile(nn.ReLU(), backend="eager"))
    message = refused(model, {nn.ReLU: activations})
    assert all(part in message for part in ("'0._orig_mod' is compiled", "torch.compile after make_searchable")), (
        message
    )
    model = nn.Sequential(torch.jit.trace(nn.Sequential(nn.ReLU()), torch.ones(1)))
    message = refused(model, {"0.0": activations})
    assert all(part in message for part in ("'0.0'", "TorchScript")), message

"""A found network is a network of its own, whatever its modules keep."""

from __future__ import annotations

import copy
import functools
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torchmetrics import MeanMetric

from advnas_lightning import Genotype, MixedOp, SearchSpace, elastic, make_searchable
from advnas_lightning.space import mixed_ops
from tests.support.labelled import Labelled

WIDTH = 4


class Layer(nn.Module):
    """A linear layer that prepares itself, and computes by a function that it may keep."""

    def __init__(self, prepare: Callable[[Any], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.function: Callable[[Tensor], Tensor] = self.linear.forward
        prepare(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def twice(self, x: Tensor) -> Tensor:
        return 2 * self.linear(x)


class Keeps(nn.Linear):
    """Keeps the tensors of its last pass in all sorts of places."""

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)
        self.listed: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        weights = super().forward(x).softmax(-1)
        self.map, self.row = weights, weights[0]
        self.listed.append(weights)
        self.holder = Holder({"deep": [(weights * 2, "text")]})
        self.complex, self.sparse = torch.fft.fft(weights), weights.to_sparse()
        with torch.inference_mode():
            self.inferred = torch.ones(2)
        return x * weights


class Holder:
    def __init__(self, content: Any) -> None:
        self.content = content


def function(make: Callable[[Any], Any]) -> Callable[[], nn.Module]:
    """A layer that computes by a function, given a way to make it for a layer."""
    return lambda: Layer(lambda layer: setattr(layer, "function", make(layer)))


def hook(make: Callable[[Any], Any]) -> Callable[[], nn.Module]:
    """A layer that computes with what a hook of its child has left."""

    def prepare(layer: Any) -> None:
        layer.linear.register_forward_hook(make(layer))
        layer.function = lambda x: (layer.linear(x), layer.seen)[1]

    return lambda: Layer(prepare)


def attribute(value: Any) -> Callable[[], nn.Module]:
    return lambda: Layer(lambda layer: setattr(layer, "kept", value))


def changed(change: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: change(nn.Linear(WIDTH, WIDTH))


def scaled(layer: Any, x: Tensor) -> Tensor:
    return 2 * layer.linear(x)


def recursive(layer: Any) -> Callable[[Tensor], Tensor]:
    def even(x: Tensor, depth: int = 2) -> Tensor:
        return layer.linear(x) if depth == 0 else odd(x, depth - 1)

    def odd(x: Tensor, depth: int) -> Tensor:
        return even(x.tanh(), depth - 1)

    return even


def wrapped(layer: Any) -> Callable[[Tensor], Tensor]:
    def inner(x: Tensor) -> Tensor:
        return layer.linear(x)

    @functools.wraps(inner)
    def outer(x: Tensor, *, linear: Any = layer.linear) -> Tensor:
        return inner(x) + linear(x)

    return outer


def labelled(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: 2 * forward(x)


def in_a_list(layer: Any) -> Callable[[Tensor], Tensor]:
    steps = [(torch.tanh, "name"), {"linear": layer.linear}]
    return lambda x: steps[1]["linear"](steps[0][0](x))  # type: ignore[index,call-overload]


def weak(layer: Any) -> None:
    layer.reference = weakref.ref(layer.linear)
    layer.function = lambda x: layer.reference()(x)


def see(layer: Any, module: nn.Module, inputs: Any, output: Tensor) -> None:
    layer.seen = output


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "kept tensors": Keeps,
    "old weight norm": changed(nn.utils.weight_norm),
    "old spectral norm": changed(nn.utils.spectral_norm),
    "weight norm": changed(parametrizations.weight_norm),
    "spectral norm": changed(parametrizations.spectral_norm),
    "orthogonal": changed(parametrizations.orthogonal),
    "pruned": changed(lambda module: prune.l1_unstructured(module, "weight", 0.5)),
    "method": lambda: Layer(lambda layer: None),
    "closure": function(lambda layer: lambda x: layer.linear(x)),
    "default": function(lambda layer: lambda x, linear=layer.linear: linear(x)),
    "partial": function(lambda layer: functools.partial(scaled, layer)),
    "partial of a closure": function(lambda layer: functools.partial(lambda x, k: k * layer.linear(x), k=2)),
    "recursive": function(recursive),
    "wrapped": function(wrapped),
    "closure of a method": function(lambda layer: labelled(layer.twice)),
    "closure of a child's forward": function(lambda layer: labelled(layer.linear.forward)),
    "closure of its own forward": lambda: Layer(lambda layer: setattr(layer, "forward", labelled(layer.forward))),
    "closure of a partial": function(lambda layer: labelled(functools.partial(scaled, layer))),
    "closure of a list": function(in_a_list),
    "weak": lambda: Layer(weak),
    "hook": hook(lambda layer: lambda module, inputs, output: setattr(layer, "seen", output)),
    "partial as a hook": hook(lambda layer: functools.partial(see, layer)),
    "its own parent": lambda: Layer(lambda layer: setattr(layer, "parents", [layer])),
    "metric": attribute(MeanMetric()),
    "module of Python": attribute(functools),
}


def trained(layer: nn.Module, genotype: Genotype) -> tuple[nn.Module, SearchSpace]:
    """A network with a choice of the layer, after a step of training and a pass."""
    model = nn.Sequential(MixedOp("edge", {"own": layer, "skip": nn.Identity()}), layer, nn.Linear(WIDTH, 2))
    space = SearchSpace(model)
    architecture = space.one_hot(space.choice(genotype))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with space.bind(architecture, architecture.gates.clone().requires_grad_()):
        model(torch.randn(3, WIDTH)).square().sum().backward()
    optimizer.step()
    with space.bind(architecture):
        model(torch.randn(3, WIDTH))
    return model, space


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    model(x).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of what is old-style
@pytest.mark.parametrize("choice", ["own", "skip"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_found_network_is_on_its_own(name: str, choice: str) -> None:
    genotype = Genotype({"edge": choice})
    model, space = trained(LAYERS[name](), genotype)
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, another = genotype.apply(model), genotype.apply(model)
    assert not mixed_ops(plain)
    x = torch.randn(3, WIDTH)
    with space.bind(space.one_hot(space.choice(genotype))):
        expected = model(x)
        there = gradients(model, x)
    torch.testing.assert_close(plain(x), expected)
    assert torch.equal(plain(x), another(x))

    # Its gradients are its own, and those of the network that was searched.
    model.zero_grad()
    found = gradients(plain, x)
    assert all(parameter.grad is None for parameter in model.parameters())
    kept = [gradient for name, gradient in there.items() if gradient is not None]
    assert len([gradient for gradient in found.values() if gradient is not None]) == len(kept)
    torch.testing.assert_close([each for each in found.values() if each is not None], kept)

    before = copy.deepcopy(model.state_dict())
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    assert not torch.allclose(plain(x), expected)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    another.load_state_dict(plain.state_dict(), strict=True)
    torch.testing.assert_close(another.eval()(x), plain.eval()(x))


def test_kept_tensors_have_their_values_and_no_graph() -> None:
    genotype = Genotype({"edge": "own"})
    layer = Keeps()
    model, _ = trained(layer, genotype)
    found: Any = genotype.apply(model)[0]
    assert found.map is not layer.map
    assert torch.equal(found.map, layer.map)
    assert torch.equal(found.sparse.to_dense(), layer.sparse.to_dense())
    assert torch.equal(found.holder.content["deep"][0][0], layer.holder.content["deep"][0][0])
    assert layer.map.requires_grad
    assert not any(kept.requires_grad for kept in (found.map, found.row, found.complex, *found.listed))
    assert found.map is found.listed[-1]
    assert found.row.data_ptr() == found.map.data_ptr()  # a part of it still is one


def test_what_cannot_be_copied_is_shared_and_named(tmp_path: Path) -> None:
    class Refuses:
        def __deepcopy__(self, memo: dict[int, Any]) -> None:
            raise NotImplementedError("not this")

    layer = attribute({"lock": threading.Lock(), "deep": [Holder(Refuses())]})()
    layer.numbers = (number for number in range(10))
    layer.result = torch.ones(2).as_subclass(Labelled)
    path = tmp_path / "text"
    path.write_text("text")
    genotype = Genotype({"edge": "own"})
    with path.open() as file:
        layer.file = file
        model, _ = trained(layer, genotype)
        with pytest.warns(UserWarning, match="shares what cannot be copied") as caught:
            found: Any = genotype.apply(model)[0]
    (message,) = [str(each.message) for each in caught]
    for part in ("kept['lock']", "kept['deep'][0].content (not this)", "numbers (", "result (", "file ("):
        assert f"0.candidates.own.{part}" in message
    assert found.kept is not layer.kept
    assert found.kept["lock"] is layer.kept["lock"]
    assert found.kept["deep"][0] is not layer.kept["deep"][0]
    assert found.kept["deep"][0].content is layer.kept["deep"][0].content
    assert found.file is layer.file
    assert found.result is layer.result
    assert found.numbers is layer.numbers
    assert found.linear.weight is not layer.linear.weight


def test_a_lock_beside_hooks_and_modules_that_refer_to_each_other() -> None:
    class Locked(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()), [self]
            self.net[0].register_forward_hook(self.see)
            self.lock = threading.Lock()

        def see(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
            with self.lock:
                self.last = output

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) + self.last

    model = Locked()
    make_searchable(model, {"net.1": lambda own: {"own": own, "tanh": nn.Tanh()}})
    genotype = Genotype({"net.1": "tanh"})
    with pytest.warns(UserWarning, match=r"^a copied network shares what cannot be copied: lock \("):
        plain = genotype.apply(model)
    x = torch.randn(3, WIDTH)
    y = model.net[0](x)
    assert torch.equal(plain(x), y.tanh() + y)
    assert plain.last is not model.last
    assert plain.seen == [plain]


def test_a_module_that_cannot_be_copied_says_so_itself() -> None:
    class Uncopyable(nn.Module):
        def __deepcopy__(self, memo: dict[int, Any]) -> None:
            raise RuntimeError("there is one of me")

    model = nn.Sequential(MixedOp("edge", {"own": nn.Identity(), "skip": nn.Identity()}), Uncopyable())
    with pytest.raises(RuntimeError, match="there is one of me"):
        Genotype({"edge": "own"}).apply(model)


def test_a_candidate_may_know_the_network_around_it() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return self.around[0].scale * x

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            inner = Inner()
            inner.around = [self]
            self.scale = nn.Parameter(torch.tensor(3.0))
            self.first, self.second = (MixedOp(name, {"own": inner, "skip": nn.Identity()}) for name in ("1", "2"))
            self.first.candidates["own"].register_forward_hook(self.note)
            self.notes: list[int] = []

        def note(self, *_: Any) -> None:
            self.notes.append(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    model = Around()
    plain = Genotype({"1": "own", "2": "own"}).apply(model)
    with torch.no_grad():
        plain.scale.fill_(2)
    assert plain(torch.ones(1)).item() == 4
    assert (len(plain.notes), len(model.notes)) == (2, 0)
    assert not mixed_ops(plain)
    assert plain.first is plain.second
    assert plain.first.around[0] is plain


def test_hooks_of_a_choice_go_with_the_candidate_that_is_found() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH))
    make_searchable(model, {"0": lambda own: {"own": own, "other": nn.Linear(WIDTH, WIDTH)}})
    seen: list[str] = []
    model[0].candidates["other"].register_forward_hook(lambda module, inputs, output: output + 5)
    model.handle = model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    model[0].candidates["other"].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    model[0].register_forward_pre_hook(lambda module, inputs, kw: ((inputs[0] * 3,), kw), with_kwargs=True)
    model[0].register_full_backward_hook(lambda *_: seen.append("backward"))
    space = SearchSpace(model)
    x = torch.randn(3, WIDTH, requires_grad=True)
    for choice in (0, 1):
        genotype = space.genotype([choice])
        with space.bind(space.one_hot([choice])):
            expected = model(x)
        plain = genotype.apply(model)
        assert torch.equal(plain(x), expected)
        seen.clear()
        plain(x).sum().backward()
        assert seen == ["backward"]
        plain.handle.remove()
        torch.testing.assert_close(2 * plain(x), expected)
        linear = model[0].candidates[genotype["0"]]
        inner = linear.weight @ (3 * x + choice).T + linear.bias[:, None] + 5 * choice
        torch.testing.assert_close(expected, 2 * inner.T)


def test_a_network_that_is_found_in_inference_mode_can_be_trained() -> None:
    genotype = Genotype({"edge": "own"})
    model, _ = trained(Keeps(), genotype)
    with torch.inference_mode():
        plain = genotype.apply(model)
    plain(torch.randn(3, WIDTH)).sum().backward()
    assert all(parameter.grad is not None for parameter in plain.parameters())


def test_tied_weights_stay_tied() -> None:
    embedding, head = nn.Embedding(5, WIDTH), nn.Linear(WIDTH, 5)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, nn.Linear(WIDTH, WIDTH), head)
    make_searchable(
        model,
        {
            "0": lambda own: {"own": own, "other": nn.Embedding(5, WIDTH)},
            "2": lambda own: {"own": own, "other": nn.Linear(WIDTH, 5)},
        },
    )
    assert model[2].candidates["own"].weight is model[0].candidates["own"].weight
    for first, last in (("own", "own"), ("other", "own"), ("own", "other")):
        plain = Genotype({"0": first, "2": last}).apply(model)
        assert (plain[0].weight is plain[2].weight) == (first == last)


def test_what_was_set_on_a_parameter_goes_with_it() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.edge = MixedOp("edge", {"own": nn.Linear(WIDTH, WIDTH), "other": nn.Identity()})
            self.mask, self.steps = torch.zeros(WIDTH), 0
            weight, bias = self.edge.candidates["own"].parameters()
            weight.marks, weight.layer, weight.lock = ["no decay"], self, threading.Lock()
            self.handle = weight.register_hook(lambda gradient: gradient * self.mask)
            bias.register_post_accumulate_grad_hook(self.count)

        def count(self, _: Tensor) -> None:
            self.steps += 1

        def forward(self, x: Tensor) -> Tensor:
            return self.edge(x)

    model = Masked()
    plain = Genotype({"edge": "own"}).apply(model)
    weight, whole = plain.edge.weight, model.edge.candidates["own"].weight
    assert weight.marks == ["no decay"]
    assert weight.marks is not whole.marks
    assert (weight.layer, weight.lock) == (plain, whole.lock)
    plain.mask = torch.ones(WIDTH)
    plain.mask[0] = 0
    plain(torch.ones(1, WIDTH)).sum().backward()
    assert torch.equal(weight.grad, plain.mask.expand(WIDTH, WIDTH))
    assert (plain.steps, model.steps) == (1, 0)
    plain.handle.remove()
    plain(torch.ones(1, WIDTH)).sum().backward()
    assert weight.grad.min() == 1
    assert len(whole._backward_hooks) == 1


def test_what_was_set_on_a_parameter_goes_with_its_slices() -> None:
    linear = nn.Linear(WIDTH, 4)
    linear.weight.no_decay = True
    linear.weight.register_hook(lambda gradient: gradient * torch.ones(4, WIDTH))
    plain = Genotype({"edge": "2"}).apply(nn.Sequential(elastic(linear, out_features=[2, 4], name="edge")))
    assert plain[0].weight.no_decay
    plain(torch.ones(1, WIDTH)).sum().backward()
    assert plain[0].weight.grad.shape == (2, WIDTH)

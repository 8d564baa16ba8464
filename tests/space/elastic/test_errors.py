"""What cannot be elastic is refused in one line that names the value and the fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advnas_lightning import Genotype, MixedOp, SearchSpace, elastic, make_searchable
from advnas_lightning.space.elastic.kinds import AXES
from advnas_lightning.space.elastic.norms import NormalizedShape

WEIGHT_NORM: Any = torch.nn.utils.parametrizations.weight_norm


class OwnForward(nn.LayerNorm):
    """As torchvision's LayerNorm2d, it normalizes another dimension than the last one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, -1)).transpose(1, -1)


def linear(**options: Any) -> Any:
    return elastic(nn.Linear(4, 8), **{"name": "ffn", **options})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: linear(out_features=[4, 16]),
            "out_features=16 of elastic 'ffn' cannot be: it is no whole number from 1 to the 8",
        ),
        (lambda: linear(out_features=[0, 8]), "out_features=0 of elastic 'ffn' cannot be"),
        (lambda: linear(out_features=[True, 8]), "out_features=True of elastic 'ffn' cannot be"),
        (lambda: linear(out_features=[4.0, 8]), "out_features=4.0 of elastic 'ffn' cannot be"),
        (lambda: linear(out_features=[4, 4]), "out_features=4 of elastic 'ffn' is there twice: give each size once"),
        (lambda: linear(out_features=[]), "out_features of elastic 'ffn' has no sizes: give a list, such as \\[8\\]"),
        (lambda: linear(out_features=8), "out_features of elastic 'ffn' has no sizes: give a list"),
        (
            lambda: linear(out_feature=[4]),
            "a Linear has no elastic size 'out_feature': it has out_features, out_halves, in_features",
        ),
        (
            lambda: linear(heads=[4]),
            "a Linear has no elastic size 'heads': it has out_features, out_halves, in_features",
        ),
        (
            lambda: linear(),
            "elastic Linear has no sizes to choose from: give it out_features or out_halves or in_features",
        ),
        (lambda: linear(out_features=[4], name=""), "needs a name for each of its sizes: name=''"),
        (lambda: linear(out_features=[4], name={"in_features": "d"}), "a dict with out_features"),
        (
            lambda: elastic(nn.Conv1d(4, 4, 3, padding=1), out_channels=[2, 4], kernel_size=[1, 3], name="c"),
            "elastic Conv1d has two choices called 'c': give them two names, such as name={'out_channels':",
        ),
        (
            lambda: linear(in_features=[2, 4], in_halves=[1, 2]),
            "elastic Linear has in_features, in_halves, which are sizes of one input: give one of them",
        ),
        (
            lambda: linear(out_features=[4, 8], out_halves=[2, 4], name={"out_features": "a", "out_halves": "b"}),
            "elastic Linear has out_features, out_halves, which are sizes of one output: give one of them",
        ),
        (
            lambda: elastic(linear(out_features=[4, 8]), out_features=[2, 8], name="ffn"),
            "a module of edge 'ffn' is elastic already: give all its sizes at once",
        ),
        (
            lambda: elastic(nn.ReLU(), name="a", out_features=[1]),
            "a ReLU cannot be elastic: use one of Linear, Embedding",
        ),
        (lambda: elastic(None, name="a", out_features=[1]), "elastic None is no module"),  # type: ignore[arg-type]
        (
            lambda: elastic(nn.LazyLinear(8), name="a", out_features=[1]),
            "LazyLinear without shapes cannot be elastic yet",
        ),
        (lambda: elastic(OwnForward(8), name="a", normalized_shape=[1]), "OwnForward has a forward pass of its own"),
        (
            lambda: elastic(nn.LayerNorm((4, 8)), name="a", normalized_shape=[1]),
            "a LayerNorm has no elastic size 'normalized_shape'",
        ),
        (
            lambda: elastic(WEIGHT_NORM(nn.Linear(4, 8)), name="a", out_features=[1]),
            "with a computed weight, as of weight_norm, pruning or LoRA, cannot be elastic",
        ),
        (
            lambda: elastic(nn.Conv2d(8, 8, 3, groups=8), name="a", in_channels=[1]),
            "a Conv2d with 8 groups has no elastic size 'in_channels': it has out_channels, kernel_size",
        ),
        (
            lambda: elastic(nn.Conv2d(8, 8, 3, groups=4), name="a", out_channels=[3]),
            "out_channels=3 of elastic 'a' cannot be: it is no multiple of 2, which is the size of a group",
        ),
        (
            lambda: elastic(nn.GroupNorm(4, 8), name="a", num_channels=[3]),
            "it is no multiple of 2, which is the size of a group",
        ),
        (
            lambda: elastic(nn.Conv2d(8, 8, 5, padding=1), name="a", kernel_size=[1]),
            "the convolution has padding=\\(1, 1\\), and needs 2 for outputs of the same size",
        ),
        (
            lambda: elastic(nn.Conv2d(8, 8, 5, padding="valid"), name="a", kernel_size=[3]),
            "the convolution has padding='valid', and needs 1",
        ),
        (
            lambda: elastic(nn.Conv2d(8, 8, 5, padding=2), name="a", kernel_size=[4]),
            "kernel_size=4 of elastic 'a' cannot be: it has no common centre with \\(5, 5\\): let both be odd",
        ),
        (
            lambda: elastic(nn.Conv2d(8, 8, 5, padding=2), name="a", kernel_size=[7]),
            "it is no size of 2 dimension\\(s\\) up to the convolution's \\(5, 5\\)",
        ),
        (
            lambda: elastic(nn.Embedding(4, 8, sparse=True), name="a", embedding_dim=[2]),
            "embedding_dim=2 of elastic 'a' cannot be: a slice of an Embedding with sparse=True has no gradient",
        ),
        (lambda: elastic(nn.Conv2d(8, 8, 5, padding=2), name="a", kernel_size=[(3,)]), "it is no size of 2 dimension"),
    ],
)
def test_what_cannot_be_elastic(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("compute", [WEIGHT_NORM, lambda conv: nn.utils.prune.l1_unstructured(conv, "weight", 0.5)])
def test_a_weight_that_is_computed_later_is_refused_too(compute: Any) -> None:
    net = nn.Sequential(elastic(nn.Conv2d(3, 8, 5, padding=2), kernel_size=[1, 5], name="kernel"))
    compute(net[0].widest)  # as in a loop over all convolutions of the network
    message = "'0', a .*Conv2d with a computed weight, as of weight_norm, pruning or LoRA, cannot be elastic"
    with pytest.raises(ValueError, match=message):
        SearchSpace(net)
    with pytest.raises(ValueError, match=message):
        Genotype({"kernel": "1"}).apply(net)

    net = nn.Sequential(elastic(nn.Conv2d(3, 8, 5, padding=2), kernel_size=[1, 5], name="kernel"))
    space = SearchSpace(net)
    compute(net[0].widest)  # as by a callback in a fit
    with space.bind(space.one_hot([0])), pytest.raises(ValueError, match=message.removeprefix("'0', ")):
        net(torch.ones(1, 3, 4, 4))  # and not with the whole kernel
    with space.bind(space.one_hot([1])):
        assert net(torch.ones(1, 3, 4, 4)).shape == (1, 8, 4, 4)


def test_another_package_s_class_of_a_known_name_is_told_in_full() -> None:
    wrapped = type("Linear", (nn.Module,), {"__module__": "peft.tuners.lora.layer"})()
    with pytest.raises(ValueError, match=r"^a peft\.tuners\.lora\.layer\.Linear cannot be elastic: use one of Linear,"):
        elastic(wrapped, out_features=[2], name="a")


def test_a_module_that_is_exchanged_for_one_of_another_class_is_refused() -> None:
    own = {"__module__": "torch.ao.nn.qat", "forward": lambda self, x: F.linear(x, self.weight.round(), self.bias)}
    net = nn.Sequential(elastic(nn.Linear(4, 8), out_features=[2, 8], name="ffn"))
    net[0].widest = type("Linear", (nn.Linear,), own)(4, 8)  # as before a training with rounded weights
    with pytest.raises(ValueError, match=r"^'0', a torch\.ao\.nn\.qat\.Linear has a forward pass of its own"):
        SearchSpace(net)


class OverChannels(NormalizedShape):
    """The same size of a norm that reads it in the second dimension."""

    def dim(self, module: Any) -> int:
        return 1


def test_a_class_of_ones_own_can_be_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AXES, OwnForward, (OverChannels(),))
    net = nn.Sequential(
        elastic(nn.Conv2d(3, 8, 1), out_channels=[2, 8], name="c"),
        elastic(OwnForward(8), normalized_shape=[2, 8], name="c"),
        elastic(nn.Conv2d(8, 3, 1), in_channels=[2, 8], name="c"),
    ).double()
    space, x = SearchSpace(net), torch.randn(2, 3, 9, 5, dtype=torch.double)
    for index, name in enumerate(("2", "8")):
        with space.bind(space.one_hot([index])):
            torch.testing.assert_close(net(x), Genotype({"c": name}).apply(net)(x), rtol=0, atol=1e-10)
    gates = torch.rand(1, 2, dtype=torch.double).requires_grad_()
    drawn: Any = type(space.one_hot([0]))

    def loss(gates: Tensor) -> Tensor:
        with space.bind(drawn(gates, space.all_paths), gates):
            return net(x).square().mean()

    assert torch.autograd.gradcheck(loss, gates, atol=1e-8)


def both(up: Any, down: Any) -> nn.Module:
    return nn.Sequential(
        elastic(nn.Linear(4, 8), out_features=up, name="ffn"), elastic(nn.Linear(8, 4), in_features=down, name="ffn")
    )


def test_different_lists_of_one_name_are_refused() -> None:
    with pytest.raises(
        ValueError, match="'1' follows edge 'ffn' with the sizes 4, 8, and the edge has 2, 8: give both"
    ):
        SearchSpace(both([2, 8], [4, 8]))
    with pytest.raises(ValueError, match=r"two MixedOps are called 'ffn' but differ: {2, 8} and {4, 8}"):
        SearchSpace(
            nn.Sequential(
                elastic(nn.Linear(4, 8), out_features=[2, 8], name="ffn"),
                elastic(nn.LayerNorm(8), normalized_shape=[4, 8], name="ffn"),
            )
        )
    with pytest.raises(ValueError, match="'0' and '1' belong to edge 'ffn', and their sizes grow in different orders"):
        SearchSpace(both({"a": 2, "b": 8}, {"a": 8, "b": 2}))


def test_a_module_that_follows_nothing_is_refused() -> None:
    other = MixedOp("other", {"a": nn.Identity(), "b": nn.Identity()})
    net = nn.Sequential(other, elastic(nn.Linear(8, 4), in_features=[2, 8], name="ffn"))
    with pytest.raises(ValueError, match="'1' follows edge 'ffn', and the network has no such edge"):
        SearchSpace(net)
    with pytest.raises(ValueError, match="'1' follows edge 'ffn', and the network has no such edge"):
        Genotype({"other": "a"}).apply(net)


def test_an_input_of_another_size_is_refused_at_the_first_pass() -> None:
    """What comes between the edge and what follows it changes the size."""
    net = nn.Sequential(
        elastic(nn.Linear(4, 8), out_features=[2, 8], name="ffn"),
        nn.Linear(8, 8),
        elastic(nn.Linear(8, 4), in_features=[2, 8], name="ffn"),
        elastic(nn.LayerNorm(4), normalized_shape=[1, 4], name="other"),
    )
    space = SearchSpace(net)
    follower, norm = net[2], net[3]
    x = torch.ones(3, 8)
    with space.bind(space.one_hot([0, 0])):
        with pytest.raises(
            ValueError, match="of a Linear of edge 'ffn' has size 8, but the edge runs '2' and so needs"
        ):
            follower(x)
        with pytest.raises(ValueError, match="has size 5, which none of its candidates has: give what comes before it"):
            follower(x[:, :5])
        with pytest.raises(ValueError, match="of a LayerNorm of edge 'other' has size 8, but the edge runs '1'"):
            norm(x)
        with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
            net(x[:, :4])  # the layer between the two is not elastic


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (lambda: elastic(nn.Linear(16, 4), in_halves=[2, 8], name="c"), torch.ones(3, 5)),
        (lambda: elastic(nn.Conv1d(16, 4, 1), in_halves=[2, 8], name="c"), torch.ones(3, 5, 6)),
        (lambda: elastic(nn.GRU(16, 4), input_halves=[2, 8], name="c"), torch.ones(3, 5)),
    ],
)
def test_an_odd_input_has_no_halves(make: Callable[[], Any], inputs: Tensor) -> None:
    message = (
        "that follows edge 'c' has size 5, which none of its candidates has: give what comes before it the sizes 4, 16"
    )
    with pytest.raises(ValueError, match=message):
        make()(inputs)


@pytest.mark.parametrize(
    ("plain", "size"),
    [
        (nn.Conv2d(8, 3, 1), "in_channels"),
        (nn.ConvTranspose2d(8, 3, 2), "in_channels"),
        (nn.Conv2d(8, 8, 3, groups=8), "out_channels"),
        (nn.BatchNorm2d(8), "num_features"),
        (nn.InstanceNorm2d(8, affine=True), "num_features"),
        (nn.GroupNorm(4, 8), "num_channels"),
        (nn.PReLU(8), "num_parameters"),
        (elastic(nn.Conv2d(8, 6, 1), out_channels=[3, 6], name="other"), "in_channels"),
    ],
)
def test_an_error_names_the_module_that_does_not_follow(plain: nn.Module, size: str) -> None:
    net = nn.Sequential(elastic(nn.Conv2d(3, 8, 1), out_channels=[2, 8], name="c"), nn.ModuleList([plain]))
    space = SearchSpace(net)
    net[1].forward = lambda x: plain(x)  # type: ignore[method-assign]
    with pytest.raises((RuntimeError, ValueError)) as caught, space.bind(space.one_hot([0] * len(space))):
        net(torch.ones(1, 3, 4, 4))
    kind = type(getattr(plain, "widest", plain)).__name__
    place = "1.0.widest" if isinstance(plain, MixedOp) else "1.0"
    assert caught.value.__notes__[1:] == [
        f"'{place}' of Sequential, a {kind}, has {size}=8 and was given 2: if what comes before it is elastic, let it"
        f" follow, as in elastic(module, {size}=…, name=…)."
    ]


def test_an_error_with_another_reason_names_no_module() -> None:
    net = both([2, 8], [2, 8])
    space = SearchSpace(net)
    net[1].double()  # type: ignore[index]
    for inputs in (torch.ones(3, 4), torch.ones(3, 5)):  # of another precision; and wider than the network
        with pytest.raises(RuntimeError) as caught, space.bind(space.one_hot([0])):
            net(inputs)
        assert caught.value.__notes__ == ["The architecture was {'ffn': '2'}."]


def test_sizes_of_other_units_share_an_edge_by_the_names_of_its_candidates() -> None:
    """A flattened image has a multiple of the channels."""
    net = nn.Sequential(
        elastic(nn.Conv2d(3, 8, 3, padding=1), out_channels=[2, 8], name="c"),
        nn.Flatten(),
        elastic(nn.BatchNorm1d(8 * 4), num_features={"2": 8, "8": 32}, name="c"),
        elastic(nn.Linear(8 * 4, 5), in_features={"2": 8, "8": 32}, name="c"),
    )
    space, x = SearchSpace(net), torch.randn(6, 3, 2, 2)
    net.eval()
    for index, name in enumerate(("2", "8")):
        with space.bind(space.one_hot([index])):
            torch.testing.assert_close(net(x), Genotype({"c": name}).apply(net)(x))
    assert [type(module) for module in Genotype({"c": "2"}).apply(net)] == [
        *(nn.Conv2d, nn.Flatten, nn.BatchNorm1d, nn.Linear)
    ]


def test_one_module_that_is_made_elastic_twice_is_refused() -> None:
    layer = nn.Linear(4, 8)
    net = nn.Sequential(*(elastic(layer, out_features=[2, 8], name=name) for name in "ab"))
    with pytest.raises(ValueError, match="'0' and '1' were made elastic of one module: make it elastic once"):
        SearchSpace(net)
    edge = elastic(nn.Linear(4, 4), out_features=[2, 4], name="a")
    SearchSpace(nn.ModuleList([edge, nn.ModuleList([edge])]))  # one result in two places


def test_a_size_cannot_be_read_off_an_argument_by_name() -> None:
    net = both([2, 8], [2, 8])
    space = SearchSpace(net)
    with (
        space.bind(space.one_hot([0])),
        pytest.raises(
            ValueError, match="a module of edge 'ffn' reads its size off its first argument: give it a tensor"
        ),
    ):
        net[1](input=torch.ones(3, 2))  # type: ignore[operator]


def test_functions_that_refer_to_the_widest_module_refer_to_the_cut_one() -> None:
    net = both([2, 8], [2, 8])
    wide = net[0].widest  # type: ignore[index]
    net.register_forward_hook(lambda module, inputs, output, own=wide: output * own.out_features)
    found = Genotype({"ffn": "2"}).apply(net)
    x = torch.ones(3, 4)
    torch.testing.assert_close(found(x), 2 * found[1](found[0](x)))  # type: ignore[index]


def test_rules_leave_what_is_in_elastic_modules_alone() -> None:
    net = nn.Sequential(both([2, 8], [2, 8]), nn.Linear(4, 4))
    assert list(make_searchable(net, {nn.Linear: lambda own: {"own": own, "skip": nn.Identity()}})) == ["1"]


def test_values_can_be_read_and_set_as_of_the_module_itself() -> None:
    net: Any = both([2, 8], [2, 8])
    space = SearchSpace(net)
    assert (net[0].out_features, net[1].in_features, net[1].out_features) == (8, 8, 4)
    with space.bind(space.one_hot([0])):
        assert (net[0].out_features, net[1].in_features, net[0].weight.shape) == (2, 2, (2, 4))
    norm: Any = elastic(nn.LayerNorm(8), normalized_shape=[2, 8], name="d")
    norm.eps = 0.25
    assert norm.widest.eps == 0.25

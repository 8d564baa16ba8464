from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from advnas_lightning.space import Architecture, SearchSpace
from advnas_lightning.tasks.toy import TeacherData, ToyNetwork
from advnas_lightning.tasks.toy.model import Filter

NODES, CANDIDATES = 4, 5


def make(**options: Any) -> ToyNetwork:
    return ToyNetwork(**{"nodes": NODES, "candidates": CANDIDATES, "seed": 3, **options}).double()


def images(batch: int = 6) -> Tensor:
    return torch.rand(batch, 1, 13, 13, generator=torch.Generator().manual_seed(0), dtype=torch.double) * 2 - 1


def kernels_of(model: ToyNetwork) -> Tensor:
    """``[nodes, candidates, 7, 7]``, read off each filter's answer at the first place to single pixels."""
    pixels = torch.eye(169, dtype=torch.double)
    rows = [[op(pixels)[:, 0].view(13, 13)[:7, :7] for op in edge.candidates.values()] for edge in model.edges]
    return torch.stack([torch.stack(row) for row in rows])


def reference(model: ToyNetwork, gates: Tensor, x: Tensor) -> Tensor:
    """The toy task of §5.1 written out with convolutions, node by node."""
    kernels = kernels_of(model)
    heads = (model.heads * len(model.edges)).view(-1, 1, 1, 4, 4)
    outputs = []
    for node, (row, head) in enumerate(zip(kernels, heads, strict=True)):
        mixed = sum(
            gate * F.conv2d(x, kernel[None, None], stride=2) for gate, kernel in zip(gates[node], row, strict=True)
        )
        outputs.append(F.conv2d(mixed.tanh(), head).flatten())
    return torch.stack(outputs).mean(0)


def mixture(space: SearchSpace) -> Tensor:
    return torch.rand(space.mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)


def test_a_filter_is_a_convolution() -> None:
    kernel = torch.randn(7, 7, dtype=torch.double)
    expected = F.conv2d(images(), kernel[None, None], stride=2)
    assert expected.shape == (6, 1, 4, 4)
    torch.testing.assert_close(
        Filter(kernel.float()).double()(images().flatten(1)).float(), expected.flatten(1).float()
    )


@pytest.mark.parametrize("choice", [(0, 1, 2, 3), (4, 4, 4, 4), (3, 0, 0, 2)])
def test_one_hot_equals_the_convolutions(choice: tuple[int, ...]) -> None:
    model = make()
    space = SearchSpace(model)
    assert space.edges == ("input->1", "input->2", "input->3", "input->4")
    architecture = space.one_hot(choice)
    with space.bind(architecture):
        output = model(images())
    assert output.shape == (6,)
    torch.testing.assert_close(output, reference(model, architecture.gates.double(), images()))


def test_a_mixture_equals_the_convolutions_with_tanh_after_the_mixing() -> None:
    model = make()
    space = SearchSpace(model)
    gates = mixture(space)
    with space.bind(Architecture(gates, space.all_paths)):
        output = model(images())
    torch.testing.assert_close(output, reference(model, gates, images()))


@pytest.mark.parametrize("choice", [None, (1, 0, 4, 2)])
def test_gate_gradient_equals_finite_differences(choice: tuple[int, ...] | None) -> None:
    model = make()
    space = SearchSpace(model)
    targets = torch.linspace(-1, 1, 6, dtype=torch.double)
    architecture = Architecture(mixture(space), space.all_paths) if choice is None else space.one_hot(choice)
    gates = architecture.gates.double().requires_grad_()
    with space.bind(architecture, gates):
        (gradient,) = torch.autograd.grad(F.mse_loss(model(images()), targets), gates)
    expected = torch.zeros_like(gradient)
    for edge, j in space.mask.nonzero().tolist():
        if j not in architecture.paths[edge]:
            continue  # did not run: no gradient
        step = torch.zeros_like(gradient)
        step[edge, j] = 1e-6
        plus, minus = (F.mse_loss(reference(model, gates.detach() + d, images()), targets) for d in (step, -step))
        expected[edge, j] = (plus - minus) / 2e-6
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)
    assert gradient.count_nonzero() == sum(map(len, architecture.paths))


def test_weights_have_the_papers_deviations() -> None:
    model = ToyNetwork(seed=1).double()
    kernels, heads = kernels_of(model), model.heads * 10
    assert kernels.shape == (10, 10, 7, 7)
    assert heads.shape == (160,)
    # 4900 and 160 normal numbers: five standard errors of a deviation, σ/√(2n), and of a mean, σ/√n
    assert kernels.std().item() == pytest.approx(1 / 7, rel=5 / (2 * 4900) ** 0.5)
    assert abs(kernels.mean().item()) < 5 / 7 / 4900**0.5
    assert heads.std().item() == pytest.approx(1 / 4, rel=5 / (2 * 160) ** 0.5)
    assert abs(heads.mean().item()) < 5 / 4 / 160**0.5


def test_equal_seeds_make_equal_networks() -> None:
    torch.manual_seed(0)
    first, other = make().state_dict(), make(seed=4).state_dict()
    torch.manual_seed(1)
    again = make().state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not any(torch.equal(value, other[key]) for key, value in first.items())


def test_nothing_is_trained_but_the_architecture() -> None:
    assert not any(parameter.requires_grad for parameter in make().parameters())
    state = torch.get_rng_state()
    make()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_teachers_genotype_has_no_loss(seed: int) -> None:
    data = TeacherData(batch_size=20, seed=seed)
    student = ToyNetwork(seed=seed)
    space = SearchSpace(student)
    x, y = next(iter(data.test_dataloader()))
    choice = space.choice(data.teacher)
    with space.bind(space.one_hot(choice)):
        assert F.mse_loss(student(x), data.teacher.apply(ToyNetwork(seed=seed))(x)).item() == 0
        assert F.mse_loss(student(x), y).item() < 1e-12  # the teacher may have seen more images at a time
    wrong = ((choice[0] + 1) % 10, *choice[1:])
    with space.bind(space.one_hot(wrong)):
        assert F.mse_loss(student(x), y).item() > 1e-6

"""Elastic modules in a whole search: with Lightning, in host memory, in bfloat16, resumed, and what is found."""

from __future__ import annotations

import itertools
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from advnas_lightning import Genotype, SearchSpace
from advnas_lightning.callbacks import LastCheckpoint
from advnas_lightning.space import mixed_ops
from advnas_lightning.space.elastic import Elastic, Follower
from benchmarks.software_device import DEVICE, on_device, software_device
from tests.support.elastic_net import AttentionNet, ElasticNet, SkipNet
from tests.support.offloading import ADAM, ends
from tests.support.small_search import FEATURES

Make = Callable[..., Any]
GENOTYPE = Genotype({"kernel": "3", "width": "6", "hidden": "3"})


def fitted(
    fit: Make,
    make_search: Make,
    make_loaders: Make,
    name: str = "advantage",
    net: nn.Module | None = None,
    **options: Any,
) -> Any:
    keys = ("precision", "callbacks", "ckpt_path", "enable_checkpointing")
    trainer = {key: options.pop(key) for key in keys if key in options}
    net = ElasticNet(dropout=0.2) if net is None else net
    search = make_search(name, net, weight_optimizer=ADAM, **options)
    torch.manual_seed(3)  # of the dropout
    fit(search, make_loaders(), make_loaders()["weights"], max_epochs=2, **trainer)
    return search


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("advantage", partial(ElasticNet, dropout=0.2)),
        ("counterfactual", AttentionNet),
        ("advantage", SkipNet),
        *(
            pytest.param(name, partial(ElasticNet, dropout=0.2), marks=pytest.mark.slow)
            for name in ("counterfactual", "gdas", "darts-second_order")
        ),
        pytest.param("darts-second_order", AttentionNet, marks=pytest.mark.slow),
    ],
)
def test_what_is_found_is_a_plain_network(
    name: str, make: Make, make_search: Make, make_loaders: Make, fit: Make
) -> None:
    search = fitted(fit, make_search, make_loaders, name, make(), calibrate=0)
    found = search.derive().eval().double()
    assert not [module for module in found.modules() if isinstance(module, Elastic | Follower)]
    space = search.space
    search.model.eval().double()
    x = torch.randn(5, FEATURES, dtype=torch.double)
    with space.bind(space.one_hot(space.choice(search.genotype(search.select)))):
        torch.testing.assert_close(found(x), search.model(x), rtol=0, atol=1e-10)


class Noting(Callback):
    """Notes where the weights of all edges are at the end of each batch."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()

    def on_train_batch_end(self, trainer: Trainer, search: Any, *_: Any) -> None:
        self.kinds |= {weight.device.type for op in mixed_ops(search.model) for weight in op.candidate_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("make", [ElasticNet, AttentionNet])
@pytest.mark.parametrize("steps", [{}, {"sampling": "sandwich", "teacher": "widest"}])
def test_a_search_with_weights_in_host_memory_has_the_same_numbers(
    steps: dict[str, str], make: Make, make_search: Make, make_loaders: Make, fit: Make, assert_same: Make
) -> None:
    def result(name: str, *, offload: bool) -> dict[str, Any]:
        with software_device():
            search = make_search(name, make(), weight_optimizer=ADAM, offload=offload, **steps)
            torch.manual_seed(3)
            fit(search, make_loaders(weights=2, architecture=2), callbacks=[noting := Noting()], **on_device())
            assert noting.kinds == {"cpu" if offload else DEVICE.type}
            return ends(search)

    assert_same(result("counterfactual", offload=True), result("counterfactual", offload=False))


@pytest.mark.parametrize("choice", [{"width": "4"}, {"hidden": "3", "kernel": "1"}])
def test_what_is_derived_has_the_statistics_of_its_own_activations(
    choice: dict[str, str], make_search: Make, make_loaders: Make, fit: Make
) -> None:
    """As ``update_bn`` of PyTorch computes them in a plain network of the small sizes."""
    search = make_search("random", ElasticNet(), sampling="sandwich", weight_optimizer=ADAM)
    fit(search, make_loaders(), precision="64-true")
    genotype = Genotype({**dict(search.genotype()), **choice})
    search.most_probable_choice = lambda: list(search.space.choice(genotype))
    batches = [(x.double(), y) for x, y in make_loaders()["weights"]]
    found = search.derive(batches)
    plain = genotype.apply(search.model)
    assert not torch.equal(found.norm.running_mean, plain.norm.running_mean)
    update_bn([x for x, _ in batches], plain)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(found.norm, name), getattr(plain.norm, name), rtol=0, atol=1e-10)


def test_what_lies_in_host_memory_is_loaded_in_slices(fit: Make, make_search: Make, make_loaders: Make) -> None:
    """A step on a device needs the slices of what it runs alone."""
    net = ElasticNet()
    SearchSpace(net)
    for op in mixed_ops(net):
        op.offload()
    stem: Any = net.stem
    copies = stem.load(1)
    assert {tuple(copied.shape) for copied in copies.values()} == {(6, 4), (6,)}
    gradients = torch.autograd.grad(sum(copied.sum() for copied in copies.values()), list(copies))
    assert gradients[0].sum(1).tolist() == [4.0] * 6 + [0.0] * 2


@pytest.mark.parametrize("make", [ElasticNet, AttentionNet])
def test_a_search_in_bfloat16_finds_a_network(make: Make, make_search: Make, make_loaders: Make, fit: Make) -> None:
    search = fitted(fit, make_search, make_loaders, "counterfactual", make(), precision="bf16-mixed")
    assert all(weight.isfinite().all() for weight in search.parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mixed", [True, False])
def test_heads_in_bfloat16_are_those_of_single_precision_but_for_rounding(mixed: bool, training: bool) -> None:
    net = AttentionNet().train(training)
    space, x = SearchSpace(net), torch.randn(16, FEATURES, generator=torch.Generator().manual_seed(0))
    weights = list(net.parameters())
    for choice in itertools.product(*(range(len(row)) for row in space.candidates)):
        drawn = space.one_hot(choice)
        gates = (space.mask / 2 if mixed else drawn.gates).clone().requires_grad_()
        run = type(drawn)(gates, space.all_paths if mixed else drawn.paths)

        def gradients(run: Any = run, gates: Tensor = gates, *, half: bool) -> Tensor:
            with space.bind(run, gates), torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = net(x).float().square().mean()
                found = torch.autograd.grad(loss, [*weights, gates])
            return torch.cat([each.flatten() for each in found])

        exact = gradients(half=False)
        assert 0 < (gradients(half=True) - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("make", [partial(ElasticNet, dropout=0.2), pytest.param(AttentionNet, marks=pytest.mark.slow)])
def test_a_search_resumes_bit_for_bit(
    make: Make, make_search: Make, make_loaders: Make, fit: Make, assert_same: Make, tmp_path: Path
) -> None:
    class Crash(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.fit_loop.epoch_loop.total_batch_idx == 5:
                raise InterruptedError

    straight = fitted(fit, make_search, make_loaders, net=make())
    callbacks = [LastCheckpoint(tmp_path, every_n_steps=1), Crash()]
    with pytest.raises(InterruptedError):
        fitted(fit, make_search, make_loaders, net=make(), callbacks=callbacks, enable_checkpointing=True)
    checkpoint = shutil.copy(tmp_path / "last.ckpt", tmp_path / "crash.ckpt")
    resumed = fitted(fit, make_search, make_loaders, net=make(), ckpt_path=checkpoint)
    assert_same(ends(resumed), ends(straight))


def plain() -> nn.Sequential:
    """The parts of a found network, without the class that was written for the search."""
    found: Any = GENOTYPE.apply(ElasticNet().double()).eval()
    return nn.Sequential(found.conv, found.stem, found.blocks, found.norm, found.head)


def test_the_found_network_refers_to_nothing_of_this_package() -> None:
    assert b"advnas" not in pickle.dumps(plain())


@pytest.mark.slow
def test_the_found_network_runs_where_this_package_cannot_be_imported(tmp_path: Path) -> None:
    torch.save(plain(), tmp_path / "found.pt")
    script = (
        "import sys, torch\n"
        "class Blocked:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('advnas_lightning', 'tests'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        f"net = torch.load({str(tmp_path / 'found.pt')!r}, weights_only=False)\n"
        "print(net[1](net[0](torch.ones(2, 1, 4, dtype=torch.double))).shape)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.stdout == "torch.Size([2, 1, 6])\n", run.stderr


def test_the_found_network_has_the_keys_and_shapes_of_one_that_was_written_small() -> None:
    found = GENOTYPE.apply(ElasticNet())
    shapes = {name: tuple(value.shape) for name, value in found.state_dict().items()}
    block = {
        **{"0.weight": (6,), "0.bias": (6,), "1.weight": (3, 6), "1.bias": (3,)},
        **{"2.weight": (6, 3), "2.bias": (6,)},
    }
    norm = {"weight": (6,), "bias": (6,), "running_mean": (6,), "running_var": (6,), "num_batches_tracked": ()}
    assert shapes == {
        **{"conv.weight": (1, 1, 3), "conv.bias": (1,), "stem.weight": (6, 4), "stem.bias": (6,)},
        **{f"blocks.{number}.{name}": shape for number in range(2) for name, shape in block.items()},
        **{f"norm.{name}": shape for name, shape in norm.items()},
        **{"head.weight": (3, 6), "head.bias": (3,)},
    }


@pytest.mark.parametrize("choice", [(0, 0, 0), (1, 1, 0), (2, 2, 1)])
def test_narrow_outputs_are_handed_on_as_they_are(choice: tuple[int, ...]) -> None:
    """A draw runs nothing wider than its sizes."""
    net = ElasticNet()
    space = SearchSpace(net)
    shapes: dict[str, int] = {}

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        shapes[type(module).__name__] = output.shape[-1]

    for module in net.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm | nn.BatchNorm1d):
            module.register_forward_hook(note)
    gates = space.one_hot(choice).gates.requires_grad_()
    with space.bind(space.one_hot(choice), gates):
        net(torch.randn(3, FEATURES)).sum().backward()
    width = (4, 6, 8)[choice[1]]
    assert shapes == {"LayerNorm": width, "BatchNorm1d": width, "Linear": 3}
    assert gates.grad is not None
    assert gates.grad.count_nonzero() == 3

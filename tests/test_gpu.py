"""What only a GPU shows: the numbers of a CPU, no waiting for it, host memory in use, half precision, resuming."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.optim import SGD

from advnas_lightning import Architecture, ArchitectureCost
from advnas_lightning.callbacks import LastCheckpoint
from advnas_lightning.objectives import Classification
from advnas_lightning.tasks.cifar10 import NASBench201
from benchmarks.cases.offload import peak
from benchmarks.lease_planner import sharing
from tests.support.command_line import SMALL_CIFAR10, SMALL_TOY, launch, read, write_images
from tests.support.ends_of_runs import state
from tests.support.offloading import ADAM, Places, check_going_on, ends, expected
from tests.support.small_search import CLASSES, FEATURES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

Make = Callable[..., Any]
GPU = {"accelerator": "gpu", "devices": 1}


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """No TF32, whose products are a thousandth off, and no kernels that add in an order of their own."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32 = True


def test_a_search_ends_as_on_the_cpu(
    engine: str, small_net: Make, make_search: Make, make_loaders: Make, fit: Make
) -> None:
    found = []
    for place in ({}, GPU):
        sgd = partial(SGD, lr=0.1)  # Adam makes a whole step of a gradient that is 0 but for its rounding
        search = make_search(engine, small_net(dropout=0.0), weight_optimizer=sgd, architecture_optimizer=sgd)
        fit(search, make_loaders(), make_loaders()["weights"], **place)
        found.append(ends(search))
    assert found[0].pop("extra").keys() == found[1].pop("extra").keys()
    for name, value in found[0].items():
        # Single precision, summed in another order
        torch.testing.assert_close(
            found[1][name], value, rtol=1e-4, atol=1e-4, msg=lambda text, at=name: f"{at}: {text}"
        )


def assert_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Where Adam stepped in host memory and on the GPU, which round otherwise."""
    for name, value in other.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(
                one[name], value, rtol=1e-5, atol=1e-5, msg=lambda text, at=name: f"{at}: {text}"
            )


def test_offloading_changes_no_number(
    engine: str, make_search: Make, make_loaders: Make, fit: Make, assert_same: Make
) -> None:
    found = []
    for offload in (False, True):
        search = make_search(engine, weight_optimizer=ADAM, offload=offload)
        torch.manual_seed(3)  # of the dropout
        fit(search, make_loaders(), make_loaders()["weights"], max_epochs=2, **GPU)
        found.append(ends(search))
    assert_same(found[1]["extra"], found[0]["extra"])
    assert_close(*found)


@pytest.mark.parametrize("at", [2, 4], ids=["middle", "end"])
def test_host_memory_is_pinned_and_keeps_what_is_the_candidates_also_after_a_crash(
    at: int, make_search: Make, make_loaders: Make, fit: Make, tmp_path: Path, assert_same: Make
) -> None:
    places = Places()
    check_going_on(at, places, lambda: GPU, make_search, make_loaders, fit, tmp_path, assert_same, assert_close)
    assert places.kinds == expected("cuda")
    assert places.pinned == {True}


@pytest.mark.parametrize("name", ["advantage", "counterfactual"])
def test_device_memory_is_flat_in_the_number_of_candidates(name: str) -> None:
    few, many = (peak(name, candidates, offload=True, batch_size=4, batches=2, gpu=True) for candidates in (3, 9))
    assert many - few < 2**16  # θ, its optimizer's state, gates and masks are [6, J], in blocks of 512 bytes
    few, many = (peak(name, candidates, offload=False, batch_size=4, batches=2, gpu=True) for candidates in (3, 9))
    assert many - few > 2**20


# -- without waiting ---------------------------------------------------------------------------------------------------


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the GPU is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("offload", [False, True], ids=["", "offload"])
@pytest.mark.parametrize("kind", ["none", "ones", "outputs", "two paths", "dense"])
def test_an_evaluation_never_waits_for_the_device(kind: str, offload: bool, make_search: Make) -> None:
    search = make_search("advantage", NASBench201(cells=1, channels=4), objective=Classification(10), offload=offload)
    search.to("cuda")
    batch = torch.randn(4, 3, 32, 32, device="cuda"), torch.randint(10, (4,), device="cuda")
    architecture = search.one_hot([1] * 6)  # 1×1 convolutions
    if kind == "two paths":
        architecture = Architecture(search.probs, tuple((1, 2) for _ in range(6)))
    elif kind == "dense":
        architecture = search.mixture(search.probs)
    else:
        architecture = replace(architecture, inactive=kind)
    for _ in range(2):  # what libraries set up once, and what is looked at in the first and the second evaluation
        search.evaluate(architecture, batch)
    with no_waiting():
        trial = search.evaluate(architecture, batch)
    assert trial.loss.isfinite()
    assert trial.gate_grad.any()


def test_waiting_is_seen() -> None:
    """So the test above can fail."""
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting():
        torch.ones(1, device="cuda").item()


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["by channel", "channels last"])
def test_the_gradients_of_cells_are_those_of_a_cpu(layout: torch.memory_format, make_search: Make) -> None:
    """PyTorch's own kernels are wrong for some of them, see ``AvgPool``."""
    torch.manual_seed(0)
    network = NASBench201(cells=1, channels=4, zero_op=True)
    images, labels = torch.randn(8, 3, 16, 16).contiguous(memory_format=layout), torch.arange(8)
    found = []
    for place in ("cpu", "cuda"):
        search = make_search("darts", copy.deepcopy(network), objective=Classification(10)).to(place)
        gates = search.probs.requires_grad_()
        with search.space.bind(search.mixture(search.probs), gates):
            search.outcome((images.to(place), labels.to(place))).loss.backward()
        grads = {name: weight.grad for name, weight in search.model.named_parameters()}
        found.append({name: grad.cpu() for name, grad in {**grads, "gates": gates.grad}.items()})
    assert len(found[0]) > 50
    for name, grad in found[0].items():
        # Single precision, summed in another order, through some twenty normalisations
        tolerance = 1e-3 * grad.abs().max().item() + 1e-6
        torch.testing.assert_close(
            found[1][name], grad, rtol=0, atol=tolerance, msg=lambda text, at=name: f"{at}: {text}"
        )


# -- precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_counterfactual_credit_is_that_of_the_dense_network(
    precision: str, small_net: Make, make_search: Make, make_loaders: Make, fit: Make
) -> None:
    """∂L/∂a at the draw, from a pass in which all candidates run with a graph, their gates at 0 and 1."""
    compared: list[tuple[Tensor, Tensor]] = []

    class Compared:
        def evaluate_draws(self, batch: Any) -> Any:
            (trial,) = trials = super().evaluate_draws(batch)
            dense = Architecture(trial.architecture.gates, self.space.all_paths)
            compared.append((trial.gate_grad, self.evaluate(dense, batch).gate_grad))
            return trials

    search = make_search("counterfactual", small_net(dropout=0.0), mixin=Compared)
    fit(search, make_loaders(), precision=precision, **GPU)
    assert len(compared) == search.architecture_steps == 4
    # Rounding to 24, 8 and 11 bits, in the same few layers
    tolerance = {"32-true": 1e-5, "bf16-mixed": 0.05, "16-mixed": 0.01}[precision]
    for credit, dense in compared:
        assert credit.dtype == torch.float32
        assert (credit - dense).abs().max() <= tolerance * dense.abs().max()


@pytest.mark.parametrize("offload", [False, True], ids=["", "offload"])
@pytest.mark.parametrize("name", ["advantage", "counterfactual", "enas", "darts", "gdas", "nasp"])
def test_the_loss_scaling_of_half_precision_changes_no_step(
    name: str, offload: bool, small_net: Make, make_search: Make, make_loaders: Make, fit: Make
) -> None:
    """A scaler of 2**16: an unscaled gradient, or one scaled twice, would be off by that."""

    def moved(precision: str) -> list[Tensor]:
        search = make_search(
            name,
            small_net(dropout=0.0),
            weight_optimizer=partial(SGD, lr=0.01),
            architecture_optimizer=partial(SGD, lr=1.0),
            offload=offload,
            **({"baseline_init": "zero"} if name == "enas" else {}),
        )
        start = [
            parameter.detach().clone() for parameter in (*search.architecture_parameters(), *search.model.parameters())
        ]
        fit(search, make_loaders(weights=1), precision=precision, **GPU)
        assert search.weight_steps == search.architecture_steps == 1
        now = (*search.architecture_parameters(), *search.model.parameters())
        return [after.detach().cpu() - before for before, after in zip(start, now, strict=True)]

    plain, half = moved("32-true"), moved("16-mixed")
    thetas = len(make_search(name).architecture_parameters())
    for parts, references in ((half[:thetas], plain[:thetas]), (half[thetas:], plain[thetas:])):
        largest = max(part.abs().max().item() for part in references)
        assert largest > 0
        for part, reference in zip(parts, references, strict=True):
            torch.testing.assert_close(part, reference, rtol=0.05, atol=0.05 * largest)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true"])
@pytest.mark.parametrize("offload", [False, True], ids=["", "offload"])
def test_half_precision_searches(
    engine: str, precision: str, offload: bool, make_search: Make, make_loaders: Make, fit: Make
) -> None:
    if engine == "darts-second_order" and precision == "bf16-true":
        pytest.skip("its finite differences are of the weights' own precision")
    search, loaders = make_search(engine, offload=offload), make_loaders(weights=2)
    if precision == "bf16-true":
        for loader in loaders.values():
            loader.dataset.inputs = loader.dataset.inputs.bfloat16()
    fit(search, loaders, precision=precision, **GPU)
    assert search.weight_steps == 2
    if search.searches:
        assert all(parameter.isfinite().all() for parameter in search.architecture_parameters())
        assert {parameter.dtype for parameter in search.architecture_parameters()} == {torch.float32}


# -- resuming ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash", [2, 4], ids=["middle", "end"])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_search_with_dropout_goes_on_bit_for_bit(
    engine: str, crash: int, precision: str, make_search: Make, make_loaders: Make, fit: Make, tmp_path: Path,
    assert_same: Make,
) -> None:  # fmt: skip
    class Crash(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.fit_loop.epoch_loop.total_batch_idx == crash:
                raise InterruptedError

    def run(folder: str, *callbacks: Callback, seed: int = 3, **options: Any) -> dict[str, Any]:
        search = make_search(engine)
        torch.manual_seed(seed)  # of the dropout, on the GPU
        options |= {"callbacks": [LastCheckpoint(tmp_path / folder, every_n_steps=1), *callbacks], **GPU}
        fit(search, make_loaders(shuffle=True), max_epochs=2, precision=precision, enable_checkpointing=True, **options)
        return torch.load(tmp_path / folder / "last.ckpt", weights_only=True, map_location="cpu")

    straight = run("straight")
    with pytest.raises(InterruptedError):
        run("broken", Crash())
    resumed = run("broken", seed=99, ckpt_path=tmp_path / "broken" / "last.ckpt")
    assert_same(state(resumed), state(straight))


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [["task=toy", *SMALL_TOY], SMALL_CIFAR10, [*SMALL_CIFAR10, "offload=true"]])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_run_from_the_command_line(
    options: list[str], precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    launch(monkeypatch, *options, "trainer=gpu", f"trainer.precision={precision}", "hydra.run.dir=run")
    summary = read(tmp_path / "run", "summary.json")
    assert summary["architecture_steps"] > 0
    assert 0 < summary["entropy"] <= torch.tensor(10.0).log()


def test_searches_of_a_sweep_share_the_device_by_mps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with tempfile.TemporaryDirectory(prefix="mps") as folder, sharing(Path(folder), gpu=True) as places:
        if not places:
            pytest.skip("needs NVIDIA's MPS")
        environment = {**os.environ, **places}
        sweep = ["-m", "task=toy", *SMALL_TOY, "trainer=gpu", "seed=0,1", "launcher=joblib", "hydra.launcher.n_jobs=2"]
        command = [sys.executable, "-m", "advnas_lightning", *sweep, "hydra.sweep.dir=sweep"]
        subprocess.run(command, env=environment, check=True, timeout=600)
        ask = {"input": "get_server_list\n", "capture_output": True, "text": True}
        servers = subprocess.run(["nvidia-cuda-mps-control"], env=environment, check=True, **ask).stdout
    assert len(sorted(Path("sweep").rglob("summary.json"))) == 2
    assert servers.strip().isdigit(), "the daemon starts a server for the first process that uses it"


def test_costs_in_seconds_are_those_of_the_device(make_search: Make, make_loaders: Make, fit: Make) -> None:
    cost = ArchitectureCost("latency", penalty=0.1)
    fit(make_search("advantage", cost=cost), make_loaders(), **GPU)
    seconds = cost.costs()
    assert all(value >= 0 for row in seconds.values() for value in row.values())
    assert seconds["first"]["block"] > seconds["second"]["skip"]


def test_a_plain_network_is_found(make_search: Make, make_loaders: Make, fit: Make) -> None:
    search = make_search("advantage", offload=True)
    fit(search, make_loaders(), **GPU)
    search.to("cuda")
    network: nn.Module = search.derive()
    assert network(torch.randn(6, FEATURES, device="cuda")).shape == (6, CLASSES)

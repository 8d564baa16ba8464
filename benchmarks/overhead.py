"""Compares the engine's time with that of a bare PyTorch loop that does the same work.

    python -m benchmarks.overhead toy|ptb|cifar10 [--steps N] [--data DIR] [--threads N] [--cells N]

It prints the time of one AdvantageNAS iteration. On the toy task this is an architecture step. On Penn Treebank and on
CIFAR-10's network, which gets random images, it is a weight step and an architecture step. On CIFAR-10's network the
architecture steps of REINFORCE and CounterfactualNAS are timed, too. Both sides see the same data, make the same draws
and are timed in turns.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from lightning import Callback, Trainer
from torch.nn import functional as F

from advnas_lightning import REINFORCE, AdvantageNAS, Architecture, CounterfactualNAS
from advnas_lightning.cli.process import keep_memory
from advnas_lightning.objectives import Classification, LanguageModelling, Regression
from advnas_lightning.tasks.cifar10 import CIFAR10, NASBench201
from advnas_lightning.tasks.ptb import PennTreebank, RecurrentLM
from advnas_lightning.tasks.toy import TeacherData, ToyNetwork

WARM_UP = 3  # the first iterations of a round, which are not counted
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Clock(Callback):
    """Measures the seconds from the end of one batch to the end of the next, which include loading."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time since the end of the last batch."""
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


def toy(steps: int) -> None:
    """Time an iteration of the toy task: a teacher's batch, a draw, a forward pass, the gate gradient, a θ step."""
    torch.set_num_threads(1)
    engine, bare = [], []
    for _ in range(3):
        data, clock = TeacherData(batches=steps), Clock()
        adam = partial(torch.optim.Adam, lr=1e-3)
        search = AdvantageNAS(ToyNetwork(), architecture_optimizer=adam, objective=Regression(), zero_op="none")
        trainer = Trainer(accelerator="cpu", max_epochs=1, limit_val_batches=0, callbacks=[clock], **QUIET)
        trainer.fit(search, datamodule=data)
        engine += clock.seconds
        bare += list(bare_toy(data))
    report("toy iteration", engine, bare)


def bare_toy(data: TeacherData) -> Iterator[float]:
    """The seconds of each iteration when it is written by hand, without the engine and without Lightning."""
    network = ToyNetwork()
    filters = [[op.matrix for op in edge.candidates.values()] for edge in network.edges]
    theta = torch.nn.Parameter(torch.ones(10, 10))
    optimizer = torch.optim.Adam([theta], lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    last = time.perf_counter()
    for images, outputs in data.train_dataloader()["architecture"]:
        p = theta.detach().softmax(-1)
        draw = torch.multinomial(p, 1, generator=generator).squeeze(1).tolist()
        gates = torch.ones(10, requires_grad=True)
        flat = images.flatten(1)
        nodes = [
            F.linear(flat, filters[i][j]) * gate for i, (j, gate) in enumerate(zip(draw, gates.unbind(), strict=True))
        ]
        loss = F.mse_loss(torch.cat(nodes, -1).tanh() @ network.heads, outputs)
        (credit,) = torch.autograd.grad(loss, gates)
        theta.grad = credit[:, None] * (F.one_hot(torch.tensor(draw), 10) - p)
        optimizer.step()
        now = time.perf_counter()
        yield now - last
        last = now


def ptb(steps: int, root: str | None, threads: int | None) -> None:
    """Time a weight step and an architecture step on windows of Penn Treebank, at the paper's sizes."""
    if threads:
        torch.set_num_threads(threads)
    data = PennTreebank(root=root)
    data.prepare_data()
    data.setup()
    engine: dict[str, list[float]] = {"weights": [], "architecture": []}
    bare: dict[str, list[float]] = {"weights": [], "architecture": []}
    for _ in range(steps):
        torch.manual_seed(0)
        search, clock = ptb_search(RecurrentLM()), Clock()
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, limit_train_batches=5, limit_val_batches=0, callbacks=[clock], **QUIET
        )
        trainer.fit(search, datamodule=data)
        engine["architecture"] += clock.seconds[::2]
        engine["weights"] += clock.seconds[1::2]
        for role, seconds in bare_ptb(data, windows=4):
            bare[role].append(seconds)
    for role in engine:
        report(f"ptb {role} step", engine[role], bare[role])


def ptb_search(model: RecurrentLM) -> AdvantageNAS:
    """AdvantageNAS with the paper's settings."""
    return AdvantageNAS(
        model,
        objective=LanguageModelling(),
        weight_optimizer=partial(torch.optim.SGD, lr=20.0),
        architecture_optimizer=partial(torch.optim.Adam, lr=3e-3),
        weight_clip=0.25,
        architecture_clip=1.0,
    )


class Gated(torch.nn.Module):
    """A candidate with its gate, as a user without the engine would write it."""

    def __init__(self, candidate: torch.nn.Module) -> None:
        super().__init__()
        self.candidate = candidate
        self.gate: torch.Tensor | None = None

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The candidate's output, times the gate if there is one."""
        output: torch.Tensor = self.candidate(*inputs)
        return output if self.gate is None else output * self.gate


def bare_ptb(data: PennTreebank, windows: int) -> Iterator[tuple[str, float]]:
    """The seconds of the same steps, written by hand on the discrete networks that the same seed draws."""
    torch.manual_seed(0)
    model = RecurrentLM()
    search = ptb_search(model)
    supernet_edges = dict(model.edges)
    sgd = torch.optim.SGD(model.parameters(), lr=20.0)
    adam = torch.optim.Adam([search.theta], lr=3e-3)
    hidden = None
    for index, window in zip(range(windows + 1), data.train_dataloader().iterables["weights"], strict=False):
        started = time.perf_counter()
        choice = search.draw()
        gates = torch.ones(len(choice), requires_grad=True)
        for name, j, gate in zip(supernet_edges, choice, gates.unbind(), strict=True):
            model.edges[name] = Gated(supernet_edges[name].candidates[supernet_edges[name].names[j]])
            model.edges[name].gate = gate if index % 2 else None
        logits, hidden = model(window.inputs, hidden)
        hidden = hidden.detach()
        loss = F.cross_entropy(logits.flatten(0, 1), window.targets.flatten())
        if index % 2:
            (credit,) = torch.autograd.grad(loss, gates)
            a = F.one_hot(torch.tensor(choice), search.theta.shape[1])
            search.theta.grad = credit[:, None] * (a - search.probs)
            torch.nn.utils.clip_grad_norm_([search.theta], 1.0)
            adam.step()
        else:
            sgd.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            sgd.step()
        if index:  # on both sides the first window is a warm-up
            yield ("architecture" if index % 2 else "weights"), time.perf_counter() - started


class RandomImages(CIFAR10):
    """Random images, as many as the steps need, in place of the files of CIFAR-10."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.count = 2 * batches * self.batch_size

    def prepare_data(self) -> None:
        """Do nothing, because there are no files."""

    def _read_official(self) -> tuple[torch.Tensor, torch.Tensor, int]:
        self.classes = tuple(map(str, range(10)))
        images = torch.randint(256, (self.count, 3, 32, 32), dtype=torch.uint8)
        return images, torch.randint(10, (self.count,)), self.count


class StepTimes:
    """A mixin that measures the seconds of each step of a strategy."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds: dict[str, list[float]] = {"weights": [], "architecture": []}

    def weight_step(self, batch: Any) -> None:
        """Take a weight step, and note its time."""
        started = time.perf_counter()
        super().weight_step(batch)  # type: ignore[misc]
        self.seconds["weights"].append(time.perf_counter() - started)

    def architecture_step(self, batch: Any) -> None:
        """Take an architecture step, and note its time."""
        started = time.perf_counter()
        super().architecture_step(batch)  # type: ignore[misc]
        self.seconds["architecture"].append(time.perf_counter() - started)


class TimedAdvantageNAS(StepTimes, AdvantageNAS):
    """AdvantageNAS with the times of its steps."""


class TimedCounterfactualNAS(StepTimes, CounterfactualNAS):
    """CounterfactualNAS with the times of its steps, and of a dense forward pass, which its other candidates cost."""

    def architecture_step(self, batch: Any) -> None:
        """Take an architecture step, and note its time and that of a dense forward pass."""
        super().architecture_step(batch)
        dense = Architecture(self.probs, self.space.all_paths)
        started = time.perf_counter()
        with torch.no_grad(), self.space.bind(dense):
            self.outcome(batch)
        self.seconds.setdefault("dense forward", []).append(time.perf_counter() - started)


class TimedREINFORCE(StepTimes, REINFORCE):
    """REINFORCE with the times of its steps."""


def cifar10(steps: int, threads: int | None, cells: int) -> None:
    """Time both steps, and whole iterations with loading and augmentation, at the paper's sizes."""
    if threads:
        torch.set_num_threads(threads)
    keep_memory()
    data = RandomImages(steps)
    data.setup()
    times: dict[str, dict[str, list[float]]] = {"engine": {}, "bare": {}, "reinforce": {}, "counterfactual": {}}
    for _ in range(3):
        kinds = {"engine": TimedAdvantageNAS, "reinforce": TimedREINFORCE, "counterfactual": TimedCounterfactualNAS}
        for side, kind in kinds.items():
            torch.manual_seed(0)
            search, clock = cifar10_search(kind, cells), Clock()
            trainer = Trainer(accelerator="cpu", max_epochs=1, limit_val_batches=0, callbacks=[clock], **QUIET)
            trainer.fit(search, datamodule=data)
            for role, seconds in {**search.seconds, "iteration": clock.seconds}.items():
                times[side].setdefault(role, []).extend(seconds[WARM_UP:])
        for role, seconds in bare_cifar10(data, trainer, cells).items():
            times["bare"].setdefault(role, []).extend(seconds[WARM_UP:])
    for role, seconds in times["engine"].items():
        report(f"cifar10 {role}", seconds, times["bare"][role])
    ours = {side: {role: median(seconds) for role, seconds in roles.items()} for side, roles in times.items()}
    weights = ours["engine"]["weights"]
    print(f"advantage architecture / weight step  {ours['engine']['architecture'] / weights:.2f}")
    print(f"reinforce architecture / weight step  {ours['reinforce']['architecture'] / weights:.2f}")
    allowed = ours["engine"]["architecture"] + ours["counterfactual"]["dense forward"]
    print(
        f"counterfactual architecture step / (advantage's + a dense forward pass without a graph)"
        f"  {ours['counterfactual']['architecture'] / allowed:.2f}"
    )


def cifar10_search(kind: Any, cells: int) -> Any:
    """A strategy with the paper's settings. Its θ moves little, so that all operations are drawn alike."""
    return kind(
        NASBench201(cells=cells),
        objective=Classification(10),
        weight_optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        architecture_optimizer=partial(torch.optim.Adam, lr=3e-4, betas=(0.5, 0.999), weight_decay=3e-3),
        weight_clip=1.0,
        architecture_clip=1.0,
    )


def bare_cifar10(data: RandomImages, trainer: Trainer, cells: int) -> dict[str, list[float]]:
    """The seconds of the same steps, written by hand on the discrete networks that the same seed draws."""
    torch.manual_seed(0)
    search = cifar10_search(AdvantageNAS, cells)
    model = search.model
    supernets = [(cell, dict(cell.edges)) for cell in model.modules() if hasattr(cell, "edges")]
    sgd = search.optimizations["weights"].factory(model.parameters())
    adam = search.optimizations["architecture"].factory([search.theta])
    trainer.training = True  # lets the data module augment the images

    def choose(gates: torch.Tensor | None) -> list[int]:
        choice: list[int] = search.draw()
        for cell, edges in supernets:
            for index, (name, j) in enumerate(zip(edges, choice, strict=True)):
                cell.edges[name] = Gated(edges[name].candidates[edges[name].names[j]])
                cell.edges[name].gate = None if gates is None else gates[index]
        return choice

    times: dict[str, list[float]] = {"weights": [], "architecture": [], "iteration": []}
    loaders = data.train_dataloader()
    for batches in zip(loaders["weights"], loaders["architecture"], strict=True):
        begun = time.perf_counter()
        (images, labels), (images2, labels2) = (data.on_after_batch_transfer(batch, 0) for batch in batches)

        started = time.perf_counter()
        choose(None)
        sgd.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        sgd.step()
        times["weights"].append(time.perf_counter() - started)

        started = time.perf_counter()
        gates = torch.ones(len(search.space), requires_grad=True)
        choice = choose(gates)
        (credit,) = torch.autograd.grad(F.cross_entropy(model(images2), labels2), gates)
        a = F.one_hot(torch.tensor(choice), search.theta.shape[1])
        search.theta.grad = credit[:, None] * (a - search.probs)
        torch.nn.utils.clip_grad_norm_([search.theta], 1.0)
        adam.step()
        times["architecture"].append(time.perf_counter() - started)
        times["iteration"].append(time.perf_counter() - begun)
    return times


def report(what: str, engine: list[float], bare: list[float]) -> None:
    """Print the medians of both sides in milliseconds, and the overhead."""
    ours, theirs = 1e3 * median(engine), 1e3 * median(bare)
    print(
        f"{what:<24} engine {ours:9.2f} ms  bare {theirs:9.2f} ms  overhead {ours - theirs:7.2f} ms"
        f" ({100 * (ours / theirs - 1):5.1f} %)  n = {len(engine)} and {len(bare)}",
        flush=True,
    )


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["toy", "ptb", "cifar10"])
    parser.add_argument("--steps", type=int, help="iterations in each of 3 rounds; ptb: rounds of 4 steps")
    parser.add_argument("--data", help="the folder of ptb.*.txt")
    parser.add_argument("--threads", type=int, help="the number of threads for ptb and cifar10; default: torch's own")
    parser.add_argument("--cells", type=int, default=5, help="the number of cells per stage of cifar10's network")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if arguments.task == "toy":
        toy(arguments.steps or 200)
    elif arguments.task == "cifar10":
        cifar10(arguments.steps or 20, arguments.threads, arguments.cells)
    else:
        ptb(arguments.steps or 3, arguments.data, arguments.threads)


if __name__ == "__main__":
    main()

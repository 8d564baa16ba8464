"""Measures the peak memory of one architecture step, with few and with many candidates per edge.

    python -m benchmarks.memory [--cells N] [--batch-size N] [--candidates N N …]

It compares single-path strategies (AdvantageNAS, CounterfactualNAS) with a dense one (DARTS) on CIFAR-10's network. The
candidates are 3×3 convolutions of equal width. The printed memory is what the step needs in addition to the network and
its parameters. Each measurement runs in a process of its own. On a GPU it is the peak of PyTorch's allocator, and
otherwise the peak of the process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from functools import partial
from pathlib import Path

import torch

from advnas_lightning import DARTS, AdvantageNAS, CounterfactualNAS
from advnas_lightning.objectives import Classification
from advnas_lightning.tasks.cifar10 import NASBench201
from advnas_lightning.tasks.cifar10.operations import ReLUConvBN

STRATEGIES = {"advantage": AdvantageNAS, "counterfactual": CounterfactualNAS, "darts": DARTS}


def conv(channels: int) -> torch.nn.Module:
    """A candidate operation, which is a 3×3 convolution."""
    return ReLUConvBN(channels, channels, 3, affine=False, running_statistics=False)


def step_memory(name: str, candidates: int, cells: int, batch_size: int) -> float:
    """The peak memory in MiB of the evaluation in one architecture step."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = NASBench201(cells=cells, operations={f"conv{index}": conv for index in range(candidates)})
    adam = partial(torch.optim.Adam, lr=3e-4)
    search = STRATEGIES[name](network, architecture_optimizer=adam, objective=Classification(10))
    search.to(device)
    batch = (torch.randn(batch_size, 3, 32, 32, device=device), torch.randint(10, (batch_size,), device=device))
    small = (batch[0][:2], batch[1][:2])
    search.evaluate_draws(small)  # lets the libraries do what they do only once
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        before = pages * resource.getpagesize()
    search.evaluate_draws(batch)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident_peak()
    return (peak - before) / 2**20


def resident_peak() -> int:
    """The largest size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1, help="cells per stage")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--candidates", type=int, nargs="+", default=[4, 32])
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for name in STRATEGIES:
        for candidates in arguments.candidates:
            with context.Pool(1) as pool:
                memory = pool.apply(step_memory, (name, candidates, arguments.cells, arguments.batch_size))
            print(f"{name:<14} {candidates:>3} candidates  {memory:8.0f} MiB", flush=True)


if __name__ == "__main__":
    main()

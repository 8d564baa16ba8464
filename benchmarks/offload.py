"""Measures the device memory of a search with and without offloading of the candidates' weights to host memory.

    python -m benchmarks.offload [--candidates N N …] [--batch-size N]

It prints the peak memory of all tensors on the device, in MiB, over an epoch of weight and architecture steps. These
are the parameters, gradients, activations and the optimizer's state. The network is that of CIFAR-10 with one cell per
stage, the candidates are 3×3 convolutions of equal width, and Adam trains the weights. On a GPU PyTorch's allocator
gives the peak. Elsewhere a device in software counts it (``software_device.py``), without the memory that kernels need
for themselves.
"""

from __future__ import annotations

import argparse
import logging
from functools import partial

import torch
from lightning import Trainer
from torch.optim import Adam
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning.objectives import Classification
from advnas_lightning.tasks.cifar10 import NASBench201
from benchmarks.memory import STRATEGIES, conv
from benchmarks.software_device import on_device, software_device

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def peak(
    name: str, candidates: int, *, offload: bool, batch_size: int = 16, batches: int = 3, gpu: bool = False
) -> int:
    """The peak memory on the device, in bytes, during an epoch of a search.

    Args:
        name: The name of the strategy.
        candidates: The number of candidates of each edge.
        offload: Whether the candidates' weights stay in host memory.
        batch_size: The number of images per step.
        batches: The number of weight steps, and of architecture steps.
        gpu: Whether to use a GPU instead of the device in software.
    """
    torch.manual_seed(0)
    network = NASBench201(cells=1, operations={f"conv{index}": conv for index in range(candidates)})
    search = STRATEGIES[name](
        network,
        weight_optimizer=partial(Adam, lr=1e-3),
        architecture_optimizer=partial(Adam, lr=3e-4),
        objective=Classification(10),
        offload=offload,
    )
    images = torch.randn(batches * batch_size, 3, 32, 32)
    data = TensorDataset(images, torch.randint(10, (len(images),)))
    loaders = {role: DataLoader(data, batch_size=batch_size) for role in ("weights", "architecture")}
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        Trainer(max_epochs=1, accelerator="gpu", devices=1, **QUIET).fit(search, loaders)
        return torch.cuda.max_memory_allocated()
    with software_device() as memory:
        before = memory.now
        Trainer(max_epochs=1, **QUIET, **on_device()).fit(search, loaders)
        return memory.peak - before


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, nargs="+", default=[4, 32])
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    gpu = torch.cuda.is_available()
    for name in STRATEGIES:
        for candidates in arguments.candidates:
            sizes = [
                peak(name, candidates, offload=offload, batch_size=arguments.batch_size, gpu=gpu) / 2**20
                for offload in (False, True)
            ]
            print(f"{name:<14} {candidates:>3} candidates  {sizes[0]:8.1f} MiB, offloaded {sizes[1]:8.1f}", flush=True)


if __name__ == "__main__":
    main()

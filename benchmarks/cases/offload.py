"""The memory of a search with and without offloading of the candidates' weights to host memory.

It is the peak of all tensors on the device over an epoch of weight and architecture steps: of parameters, gradients,
activations and the optimizer's state. The network is that of CIFAR-10 with one cell per stage, the candidates are 3×3
convolutions of equal width, and Adam trains the weights. On a GPU PyTorch's allocator gives the peak. Elsewhere a
device in software counts it, without the memory that kernels need for themselves.
"""

from __future__ import annotations

from functools import partial

import torch
from lightning import Trainer
from torch.optim import Adam

from advnas_lightning import DARTS, AdvantageNAS, CounterfactualNAS
from advnas_lightning.objectives import Classification
from advnas_lightning.tasks.cifar10 import NASBench201
from advnas_lightning.tasks.cifar10.operations import ReLUConvBN
from benchmarks.cases.cifar10 import loaders
from benchmarks.measuring import QUIET
from benchmarks.rows import Row
from benchmarks.software_device import on_device, software_device

STRATEGIES = {"advantage": AdvantageNAS, "counterfactual": CounterfactualNAS, "darts": DARTS}


def conv(channels: int) -> torch.nn.Module:
    """A candidate operation, which is a 3×3 convolution."""
    return ReLUConvBN(channels, channels, 3, affine=False, running_statistics=False)


def peak(
    name: str,
    candidates: int,
    *,
    offload: bool,
    batch_size: int = 16,
    batches: int = 3,
    pixels: int = 32,
    gpu: bool = False,
) -> int:
    """The peak memory on the device, in bytes, during an epoch of a search.

    Args:
        name: The name of the strategy.
        candidates: The number of candidates of each edge.
        offload: Whether the candidates' weights stay in host memory.
        batch_size: The number of images per step.
        batches: The number of weight steps, and of architecture steps.
        pixels: The width and the height of the images.
        gpu: Whether to use a GPU instead of the device in software.
    """
    torch.manual_seed(0)
    search = STRATEGIES[name](
        NASBench201(cells=1, operations={f"conv{index}": conv for index in range(candidates)}),
        weight_optimizer=partial(Adam, lr=1e-3),
        architecture_optimizer=partial(Adam, lr=3e-4),
        objective=Classification(10),
        offload=offload,
    )
    data = loaders(batches, batch_size, 3, pixels, pixels)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        Trainer(accelerator="gpu", devices=1, **QUIET).fit(search, data)
        return torch.cuda.max_memory_allocated()
    with software_device() as memory:
        before = memory.now
        Trainer(**QUIET, **on_device()).fit(search, data)
        return memory.peak - before


def memory(case: str, *, small: bool) -> list[Row]:
    """Measure it with few and with many candidates."""
    rows = []
    sizes = {"batch_size": 2, "batches": 1, "pixels": 8} if small else {}
    gpu = torch.cuda.is_available()
    for name in STRATEGIES:
        for candidates in (2, 3) if small else (4, 32):
            held, offloaded = (
                peak(name, candidates, offload=offload, gpu=gpu, **sizes) / 2**20 for offload in (False, True)
            )
            rows.append(
                Row(case, f"{name}, {candidates} candidates, offloaded", offloaded, "MiB", "on the device", held,
                    offloaded / held)
            )  # fmt: skip
    return rows

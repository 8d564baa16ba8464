"""Numbers that tell whether tensors have changed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

ROW = 1024  # words, so that the weights of large tensors take little memory


def fingerprint(model: nn.Module) -> list[int]:
    """Numbers that differ, as good as always, when a parameter or a buffer of a network has other contents.

    They are those of :func:`checksums`.

    Args:
        model: The network.

    Example:
        >>> fingerprint(nn.BatchNorm1d(2, affine=False))
        [0, 4575657222473777152, 0]
    """
    return checksums(
        tensor
        for tensor in (*model.parameters(), *model.buffers())
        if type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_meta
    )


def checksums(tensors: Iterable[Tensor]) -> list[int]:
    """The checksums of tensors with memory of their own, by device. This asks each device once.

    Args:
        tensors: The tensors.

    Example:
        >>> checksums([torch.zeros(2), torch.tensor([1, 0]), torch.tensor([0, 1])])
        [0, 1, 3]
    """
    sums: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        sums.setdefault(tensor.device, []).append(checksum(tensor))
    return [number for each in sums.values() for number in torch.stack(each).tolist()]


def checksum(tensor: Tensor) -> Tensor:
    """A number that differs, as good as always, when a tensor's contents differ, scalar.

    It is a weighted sum over the tensor's memory in words of 8 bytes. The weights tell different orders apart. It is
    the same on every device, and takes little memory beside that of a contiguous tensor.

    Args:
        tensor: The tensor.

    Example:
        >>> checksum(torch.tensor([1, 2])), checksum(torch.tensor([2, 1]))
        (tensor(7), tensor(5))
    """
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
    flat = flat if flat.storage_offset() % 8 == 0 else flat.clone()
    whole = len(flat) // 8 * 8  # words are summed up 500 times as fast as bytes
    words = flat[:whole].view(torch.int64)
    rows = words[: len(words) // ROW * ROW].view(-1, ROW)
    parts = [words[rows.numel() :], flat[whole:].to(torch.int64)]
    if len(rows):
        parts += [rows.sum(0), rows.sum(1)]
    sums = [_weighted_sum(part) for part in parts if len(part)]
    return torch.stack(sums).sum() if sums else torch.zeros((), dtype=torch.int64, device=tensor.device)


def _weighted_sum(values: Tensor) -> Tensor:
    return (values * torch.arange(1, 2 * len(values) + 1, 2, device=values.device)).sum()

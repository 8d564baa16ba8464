"""One size of a kind of module, and what a module of a smaller size computes with: linear layers and embeddings."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from advnas_lightning.space.elastic.narrowing import Change, first, first_of_each


class Axis:
    """One size of a kind of module, which can be elastic. The methods of this class are those of ``out_features``.

    For a module of one's own, write a subclass, and enter it in
    :data:`AXES <advnas_lightning.space.elastic.kinds.AXES>` by the module's class.

    Attributes:
        name: What the module's constructor calls the size.
        reads: Whether the input has a size that belongs to it.
        gives: Whether the output has this size.

    Example:
        >>> from torch import nn
        >>> axis, linear = Axis(), nn.Linear(4, 8)
        >>> axis.name, axis.full(linear), axis.change(linear, 2).attributes
        ('out_features', 8, {'out_features': 2})
    """

    name = "out_features"
    reads, gives = False, True

    def of(self, module: Any) -> bool:
        """Whether a module of this kind has the axis."""
        return True

    def full(self, module: Any) -> Any:
        """The size that the module has."""
        return getattr(module, self.name)

    def dim(self, module: Any) -> int:
        """The dimension in which a tensor that the module reads or gives has the size."""
        return -1

    def given(self, module: Any, value: Any) -> int:
        """The size that an input has."""
        return int(value.shape[self.dim(module)])

    def read(self, module: Any, size: int) -> int:
        """The size of the input that belongs to this size."""
        return size

    def group(self, module: Any) -> int:
        """How many entries stay together, so that a size is a multiple of it."""
        return 1

    def change(self, module: Any, size: Any) -> Change:
        """What the module has with this size.

        Args:
            module: The module, which may have smaller sizes on its other axes.
            size: The size.
        """
        return Change({self.name: size}, {"weight": first(size), "bias": first(size)})

    def running(self, module: Any, size: Any) -> Change:
        """What the module has with this size during its forward pass.

        Args:
            module: The module.
            size: The size.
        """
        return self.change(module, size)

    def checked(self, module: Any, size: Any) -> Any:
        """A size as the module has it.

        Args:
            module: The module.
            size: The size as a user gives it.

        Raises:
            ValueError: It cannot have it. The message says what it can have.
        """
        full = self.full(module)
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= full:
            raise ValueError(f"it is no whole number from 1 to the {full} that the {type(module).__name__} has")
        if size % (group := self.group(module)):
            raise ValueError(f"it is no multiple of {group}, which is the size of a group")
        return size

    def padded(self, module: Any, output: Any, size: int) -> Any:
        """An output with zeros up to a size.

        Args:
            module: The module.
            output: What it has returned.
            size: The size.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> Axis().padded(nn.Linear(1, 3), torch.ones(2), 3)
            tensor([1., 1., 0.])
        """
        return pad(output, self.dim(module), size)


class OutHalves(Axis):
    """Half of the ``out_features`` of a Linear whose output is two halves, such as a gate and what it multiplies.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> axis, linear = OutHalves(), nn.Linear(1, 4)
        >>> axis.change(linear, 1).views["bias"](torch.arange(4)), axis.padded(linear, torch.ones(1, 2), 2)
        (tensor([0, 2]), tensor([[1., 0., 1., 0.]]))
    """

    name = "out_halves"

    def of(self, module: Any) -> bool:
        """Whether the output has two halves."""
        return bool(module.out_features % 2 == 0)

    def full(self, module: Any) -> int:
        """The size of a half."""
        return int(module.out_features) // 2

    def change(self, module: Any, size: int) -> Change:
        """The first rows of each half of the weight."""
        rows = first_of_each(2, size)
        return Change({"out_features": 2 * size}, {"weight": rows, "bias": rows})

    def padded(self, module: Any, output: Any, size: int) -> Any:
        """An output with zeros behind each half."""
        return pad(output.unflatten(-1, (2, -1)), -1, size).flatten(-2)


class InFeatures(Axis):
    """``in_features`` of a Linear.

    Example:
        >>> from torch import nn
        >>> linear = nn.Linear(4, 8)
        >>> InFeatures().change(linear, 2).views["weight"](linear.weight).shape
        torch.Size([8, 2])
    """

    name = "in_features"
    reads, gives = True, False

    def change(self, module: Any, size: int) -> Change:
        """The first columns of the weight."""
        return Change({self.name: size}, {"weight": first(size, 1)})


class InHalves(InFeatures):
    """Half of the ``in_features`` of a Linear whose input is two halves, as of a recurrent layer in two directions.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> InHalves().change(nn.Linear(4, 8), 1).views["weight"](torch.arange(4).view(1, 4))
        tensor([[0, 2]])
    """

    name = "in_halves"

    def of(self, module: Any) -> bool:
        """Whether the input has two halves."""
        return bool(module.in_features % 2 == 0)

    def full(self, module: Any) -> int:
        """The size of a half."""
        return int(module.in_features) // 2

    def read(self, module: Any, size: int) -> int:
        """The size of the input, which is that of both halves."""
        return 2 * size

    def change(self, module: Any, size: int) -> Change:
        """The first columns of each half of the weight."""
        return Change({"in_features": 2 * size}, {"weight": first_of_each(2, size, 1)})


class EmbeddingDim(Axis):
    """``embedding_dim`` of an Embedding or EmbeddingBag.

    Example:
        >>> from torch import nn
        >>> embedding = nn.Embedding(10, 4)
        >>> EmbeddingDim().change(embedding, 2).views["weight"](embedding.weight).shape
        torch.Size([10, 2])
    """

    name = "embedding_dim"

    def change(self, module: Any, size: int) -> Change:
        """The first columns of the weight."""
        return Change({self.name: size}, {"weight": first(size, 1)})

    def checked(self, module: Any, size: Any) -> Any:
        """The size, if a slice of the weight can have a gradient.

        Raises:
            ValueError: The size is not one that the module can have, or its gradients are sparse.
        """
        if module.sparse:
            kind = type(module).__name__
            raise ValueError(f"a slice of an {kind} with sparse=True has no gradient: give it sparse=False")
        return super().checked(module, size)


def pad(output: Tensor, dim: int, size: int) -> Tensor:
    """A tensor with zeros behind its entries, up to a size.

    Args:
        output: The tensor.
        dim: The dimension that is padded.
        size: The size that it then has.

    Example:
        >>> import torch
        >>> pad(torch.ones(1, 2), 0, 2)
        tensor([[1., 1.],
                [0., 0.]])
    """
    missing = size - output.shape[dim]
    behind = output.dim() - 1 - dim % output.dim()
    return F.pad(output, [0, 0] * behind + [0, missing]) if missing else output

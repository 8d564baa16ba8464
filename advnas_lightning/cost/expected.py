"""The expected cost of an architecture whose edges are drawn independently, and its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from advnas_lightning.cost.table import CostTable


class ExpectedCost:
    """C(p) = c_0 + Σ_i ⟨p_i, c_i⟩ + Σ_u ⟨⊗_{i ∈ u} p_i, c_u⟩, where u are the groups of edges with an interaction.

    Args:
        table: The costs.
        width: The largest number of candidates J of an edge.
        device: Where the probabilities are.

    Attributes:
        rows: c_ij, ``[E, J]``, in double precision where the device has it.

    Example:
        >>> import numpy as np
        >>> from advnas_lightning.cost.interaction import Interaction
        >>> area = Interaction((0, 1), np.array([[0.0, 0.0], [0.0, 2.0]]))
        >>> table = CostTable("macs", {"in": {"1": 0.0, "2": 1.0}, "out": {"1": 0.0, "3": 2.0}}, 1.0, (area,))
        >>> cost = ExpectedCost(table, 2, torch.device("cpu"))
        >>> float(cost(torch.tensor([[0.5, 0.5], [0.0, 1.0]]))), cost.slope(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        (4.5, tensor([[0., 1.],
                [0., 4.]], dtype=torch.float64))
    """

    def __init__(self, table: CostTable, width: int, device: torch.device) -> None:
        self._fixed = table.fixed
        kind = torch.float32 if device.type == "mps" else torch.float64  # MPS has no double precision
        rows = [row + [0.0] * (width - len(row)) for row in table.rows]
        self.rows = torch.tensor(rows, dtype=kind, device=device)
        self._groups: list[tuple[Tensor, Tensor]] = []  # by their size: the edges [U, size], the costs [U, J, …, J]
        for size in sorted({len(each.edges) for each in table.interactions}):
            alike = [each for each in table.interactions if len(each.edges) == size]
            costs = torch.zeros(len(alike), *[width] * size, dtype=kind)
            for own, each in zip(costs, alike, strict=True):
                own[tuple(map(slice, each.costs.shape))] = torch.as_tensor(each.costs, dtype=kind)
            edges = torch.tensor([each.edges for each in alike], device=device)
            self._groups.append((edges, costs.to(device)))

    def __call__(self, gates: Tensor) -> Tensor:
        """The expected cost, scalar, in the precision of the costs.

        Args:
            gates: The probabilities p, or the gates of one architecture, ``[E, J]``.
        """
        gates = gates.to(self.rows.dtype)
        total = self._fixed + (gates * self.rows).sum()
        for edges, costs in self._groups:
            for own in gates[edges].unbind(1)[::-1]:  # [U, J], of the last edge of each group first
                costs = torch.einsum("u...j,uj->u...", costs, own)
            total = total + costs.sum()
        return total

    def slope(self, gates: Tensor) -> Tensor:
        """The gradient of the expected cost in the gates, ``[E, J]``.

        Args:
            gates: Where it is taken, ``[E, J]``.
        """
        if not self._groups:
            return self.rows
        with torch.enable_grad():
            at = gates.detach().to(self.rows.dtype).requires_grad_()
            (gradient,) = torch.autograd.grad(self(at), at)
        return gradient

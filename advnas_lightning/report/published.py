"""The paper's own numbers (Sato, Sakuma, Akimoto, AAAI 2021), to be shown beside ours: mean and standard deviation."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TABLE_2", "TABLE_4", "Published"]


class Published(NamedTuple):
    """A published figure.

    Example:
        >>> str(Published(93.76, 0.0))
        '93.76 ± 0.00'
    """

    mean: float
    deviation: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.deviation:.2f}"


def _row(**values: tuple[float, float]) -> dict[str, Published]:
    return {name: Published(*value) for name, value in values.items()}


# Benchmark accuracy in % on CIFAR-10 after 200 epochs, without the zero operation.
TABLE_2: dict[str, dict[str, Published]] = {
    "reinforce": _row(argmax=(93.01, 0.47), process_best=(92.69, 0.52)),
    "parsec": _row(argmax=(93.68, 0.12), process_best=(92.51, 0.65)),
    "proxylessnas": _row(argmax=(93.22, 0.08)),
    "gdas": _row(argmax=(93.46, 0.13), process_best=(92.53, 0.98)),
    "advantage": _row(argmax=(93.76, 0.00), process_best=(93.29, 0.21)),
}

# As Table 2, with the zero operation among the candidates.
TABLE_4: dict[str, dict[str, Published]] = {
    "reinforce": _row(argmax=(65.15, 39.00), process_best=(91.40, 0.45)),
    "parsec": _row(argmax=(92.67, 0.55), process_best=(91.75, 0.57)),
    "proxylessnas": _row(argmax=(10.00, 0.00)),
    "gdas": _row(argmax=(88.62, 0.00), process_best=(92.82, 0.71)),
    "advantage": _row(argmax=(93.63, 0.18), process_best=(93.18, 0.19)),
}

"""The paper's own results (Sato, Sakuma, Akimoto, AAAI 2021), as means and standard deviations."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PARAMETERS_2", "SEEDS", "TABLE_2", "TABLE_3", "TABLE_4", "Published"]


class Published(NamedTuple):
    """A result of the paper over several runs.

    Attributes:
        mean: The mean over several runs.
        deviation: The standard deviation over these runs.

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

# The parameters of Table 2's arg-max cells, in millions.
PARAMETERS_2: dict[str, float] = {
    "reinforce": 0.67,
    "parsec": 1.39,
    "proxylessnas": 0.74,
    "gdas": 1.24,
    "advantage": 1.53,
}

# Perplexity of the found cell on Penn Treebank after training from scratch.
TABLE_3: dict[str, dict[str, Published]] = {
    "reinforce": _row(validation=(99.48, 1.51), test=(95.50, 1.73)),
    "parsec": _row(validation=(99.68, 1.49), test=(95.51, 1.01)),
    "proxylessnas": _row(validation=(95.12, 0.22), test=(90.76, 0.23)),
    "gdas": _row(validation=(99.28, 2.00), test=(95.40, 2.01)),
    "advantage": _row(validation=(94.90, 0.18), test=(91.18, 0.13)),
}

# The same as Table 2, but with the zero operation among the candidates.
TABLE_4: dict[str, dict[str, Published]] = {
    "reinforce": _row(argmax=(65.15, 39.00), process_best=(91.40, 0.45)),
    "parsec": _row(argmax=(92.67, 0.55), process_best=(91.75, 0.57)),
    "proxylessnas": _row(argmax=(10.00, 0.00)),
    "gdas": _row(argmax=(88.62, 0.00), process_best=(92.82, 0.71)),
    "advantage": _row(argmax=(93.63, 0.18), process_best=(93.18, 0.19)),
}

# The number of runs behind each mean. The paper states the number of Figure 1. That of Table 4 is concluded from its
# numbers: one run at chance (10 %) and two runs near 92.7 % give its mean of 65.15 and its deviation of 39.00, if the
# variance is divided by n and not by n - 1. The other tables are assumed to have as many runs as Table 4.
SEEDS = {"fig1": 10, "table2": 3, "table3": 3, "table4": 3}

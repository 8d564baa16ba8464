"""The commands beside a run: ``advnas report``, ``advnas diagnose``, ``advnas rank`` and others."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command of its own beside the run of a search.

    Attributes:
        module: The module whose ``main`` takes the command's arguments.
        meaning: What the command does, in one line.

    Example:
        >>> COMMANDS["report"].meaning
        'Figures, tables and a page from what runs left.'
    """

    module: str
    meaning: str


COMMANDS = {
    "report": Command("advnas_lightning.report.__main__", "Figures, tables and a page from what runs left."),
    "diagnose": Command("advnas_lightning.diagnose.__main__", "How good the strategies' gradients are at a search."),
    "rank": Command("advnas_lightning.cli.rank", "The best architectures of a search, also within budgets."),
    "cost": Command(
        "advnas_lightning.cli.cost", "What a run's candidates cost on this machine: measures and shows it."
    ),
    "refine": Command(
        "advnas_lightning.cli.refine", "Trains what a search has found, and its neighbours, for a short time."
    ),
    "export": Command("advnas_lightning.cli.export", "Writes the network of a run for use elsewhere, such as ONNX."),
    "table": Command("advnas_lightning.cli.table", "Converts NAS-Bench-201's table, and looks cells up."),
}

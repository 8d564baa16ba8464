"""Shows a diagnosis: a table in the terminal, and a figure of bias against noise."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from advnas_lightning.diagnose.statistics import Credit, EstimatorStatistics, Truth, recommend
from advnas_lightning.report.palette import styles
from advnas_lightning.texts import listed, rich

COLUMNS = (
    "bias", "its noise", "variance", "cosine", "draw cosine", "SNR", "s per step", "SNR per s", "cosine in 1 s",
    "as exact",
)  # fmt: skip


def show(truth: Truth, statistics: Sequence[EstimatorStatistics], credit: Credit) -> None:
    """Print the table of all estimators, how to read it, and the recommended estimator."""
    whole_table = not sys.stdout.isatty() and "COLUMNS" not in os.environ  # a file has room for it
    console = Console(width=140 if whole_table else None)
    table = Table("estimator", *COLUMNS, title=f"estimates of ∇θ E[L]; exact: {truth.by}")
    for each in statistics:
        values = [each.bias, each.noise, each.variance, each.cosine, each.draw_cosine, each.snr, each.seconds]
        values += [each.snr_per_second, each.second_cosine]
        table.add_row(each.name, *(f"{value:.3g}" for value in values), f"{each.agreement(truth)}/{len(truth.raises)}")
    console.print(table)
    size = float(truth.gradient.norm())
    console.print(
        f"Without any bias, {statistics[0].draws} draws would show “its noise”, and what is taken for exact is"
        f" {truth.error / max(size, 1e-30):.2g} off. ‖∇θ E[L]‖ = {size:.3g}.",
        highlight=False,
    )
    choices = listed(f"{edge} {candidate}" for edge, candidate in truth.raises.items())
    console.print(
        rich(f"The exact gradient raises most: {choices}. “As exact”: on how many edges an estimator's mean does so."),
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"Eq. (7) against Eq. (6): rank correlation {credit.rank_correlation:.3f}, same sign in"
        f" {credit.sign_agreement:.0%} ({credit.draws} draws).",
        highlight=False,
    )
    console.print(f"Recommended: {recommend(statistics)}.", highlight=False, soft_wrap=True)


def draw(statistics: Sequence[EstimatorStatistics], folder: Path) -> None:
    """Draw bias against the noise of one step.

    An estimator near the origin is better. Below the diagonal noise outweighs bias.
    """
    figure = Figure(figsize=(7.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    style_of = styles(each.name.partition("-")[0] for each in statistics)
    for each in statistics:
        style = style_of[each.name.partition("-")[0]]
        x, y = math.sqrt(max(each.variance, 1e-12)), max(each.bias, each.noise)
        face = "none" if "-" in each.name else style.colour
        axes.scatter(
            x, y, s=60, marker=style.marker, edgecolors=style.colour, facecolors=face, zorder=3, label=each.name
        )
    axes.set(xscale="log", yscale="log", xlabel="standard deviation of one step / ‖∇θ E[L]‖")
    axes.set_ylabel("bias / ‖∇θ E[L]‖, or the noise of its estimate")
    axes.grid(alpha=0.3)
    axes.margins(0.1)
    figure.legend(loc="outside right upper", fontsize=8)
    save(figure, folder)


def save(figure: Figure, folder: Path) -> None:
    """Write a figure as ``diagnosis.png`` and ``diagnosis.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending in ("png", "svg"):
        figure.savefig(folder / f"diagnosis.{ending}", dpi=160)

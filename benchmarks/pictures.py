"""Makes the pictures of the README and the documentation, in light and dark: ``python -m benchmarks.pictures``.

``search-*.svg`` shows an edge, and the probabilities of a real search of the toy task (with seed 0, and with θ's
learning rate at 0.01, so that they settle within the task's 2000 steps).
``two_steps-*.svg`` shows the two steps of Algorithm 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import torch
from lightning import Callback, LightningModule, Trainer
from torch.optim import Adam

from advnas_lightning import AdvantageNAS
from advnas_lightning.objectives import Regression
from advnas_lightning.tasks.toy import TeacherData, ToyNetwork

IMAGES = Path(__file__).parents[1] / "docs" / "images"
FONT = "-apple-system, 'Segoe UI', 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


@dataclass(frozen=True)
class Palette:
    """The colours of a picture."""

    ink: str
    muted: str
    pale: str
    blue: str
    orange: str
    on_blue: str


PALETTES = {
    "light": Palette("#1f2933", "#5b6774", "#d5dbe2", "#2a5db0", "#c2590a", "#ffffff"),
    "dark": Palette("#e6e9ed", "#a3adb8", "#3d4650", "#8ab4f8", "#f0a45d", "#10151b"),
}


@dataclass
class Picture:
    """An SVG of text, lines and boxes."""

    width: int
    height: int
    title: str
    colours: Palette
    parts: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 24,
        colour: str = "",
        weight: int = 400,
        anchor: str = "start",
    ) -> None:
        """A line of text, whose baseline begins (or has its middle or end) at a point."""
        fill = colour or self.colours.ink
        style = f'font-size="{size}" font-weight="{weight}" fill="{fill}" text-anchor="{anchor}"'
        self.parts.append(f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>')

    def box(
        self, x: float, y: float, width: float, height: float, *, fill: str = "none", edge: str = "none", r: float = 8
    ) -> None:
        """A box with round corners."""
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{r:g}"'
        self.parts.append(f'<rect {place} fill="{fill}" stroke="{edge}" stroke-width="2"/>')

    def path(
        self, d: str, *, colour: str = "none", width: float = 2, dash: str = "", fill: str = "none", arrow: bool = False
    ) -> None:
        """A path by SVG's own notation, with an arrow at its end if that is wanted."""
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        if arrow:
            name = f"arrow{colour.lstrip('#')}"
            extra += f' marker-end="url(#{name})"'
            shape = f'<path d="M0,0 L10,5 L0,10 z" fill="{colour}"/>'
            marker = f'<marker id="{name}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="6" markerHeight="6"'
            defined = f'<defs>{marker} orient="auto-start-reverse" markerUnits="strokeWidth">{shape}</marker></defs>'
            if defined not in self.parts:
                self.parts.append(defined)
        self.parts.append(f'<path d="{d}" fill="{fill}" stroke="{colour}" stroke-width="{width:g}"{extra}/>')

    def circle(self, x: float, y: float, r: float, *, fill: str, edge: str = "none") -> None:
        """A circle."""
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="{fill}" stroke="{edge}" stroke-width="2"/>')

    def save(self, path: Path) -> None:
        """Write the file."""
        path.write_text(self.svg())

    def svg(self) -> str:
        """The file's text."""
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}" role="img">'
        return "\n".join([head, f"<title>{escape(self.title)}</title>", *self.parts, "</svg>"]) + "\n"


class Probabilities(Callback):
    """Keeps θ's probabilities every few steps."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.kept: list[torch.Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the search begins with."""
        self.kept.append(pl_module.probs.clone())

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Keep a step's probabilities."""
        if pl_module.clock.batches % self.every == 0:
            self.kept.append(pl_module.probs.clone())


@dataclass
class Search:
    """A search of the toy task.

    Attributes:
        steps: How many architecture steps it had.
        probs: The probabilities over time, ``[T, E, J]``.
        teacher: The candidate of the teacher on each edge.
    """

    steps: int
    probs: torch.Tensor
    teacher: list[int]

    @property
    def found(self) -> list[int]:
        """The arg max of each edge."""
        return self.probs[-1].argmax(-1).tolist()


def search_toy(seed: int = 0, epochs: int = 20, lr: float = 0.01) -> Search:
    """Search the toy task as ``advnas seed=0 task.optimization.architecture_optimizer.lr=0.01`` does."""
    data = TeacherData(seed=seed)
    model = AdvantageNAS(
        ToyNetwork(seed=seed), objective=Regression(), architecture_optimizer=partial(Adam, lr=lr), seed=seed
    )
    noted = Probabilities(every=20)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[noted],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(model, datamodule=data)
    teacher = [model.space.candidates[i].index(name) for i, name in enumerate(data.teacher.values())]
    return Search(model.architecture_steps, torch.stack(noted.kept), teacher)


def draw_search(search: Search, colours: Palette) -> Picture:
    """An edge that chooses, and beside it what all edges of a search became."""
    right = sum(a == b for a, b in zip(search.found, search.teacher, strict=True))
    title = "An edge runs one of its candidates per step, and in a search of the toy task the probabilities settle"
    picture = Picture(1400, 620, title, colours)
    _draw_edge(picture)
    picture.text(700, 44, "The credits move the probabilities", size=30, weight=600)
    picture.text(700, 80, f"toy task, 10 edges with 10 candidates each, {search.steps} steps", colour=colours.muted)
    left, width, top, height, gap = 790, 480, 104, 36, 8
    for edge, (found, wanted) in enumerate(zip(search.found, search.teacher, strict=True)):
        y = top + edge * (height + gap)
        picture.text(left - 16, y + 26, f"edge {edge + 1}", size=24, colour=colours.muted, anchor="end")
        picture.box(left, y, width, height, fill=colours.pale, r=4)
        _fill(picture, search.probs[:, edge, wanted].tolist(), left, y, width, height, colours.blue)
        if found != wanted:
            _fill(picture, search.probs[:, edge, found].tolist(), left, y, width, height, colours.orange)
        mark, colour = ("✓", colours.blue) if found == wanted else ("✗", colours.orange)
        picture.text(left + width + 16, y + 27, mark, size=26, weight=700, colour=colour)
        picture.text(1366, y + 26, f"{search.probs[-1, edge, found]:.2f}", size=24, colour=colours.ink, anchor="end")
    bottom = top + 10 * (height + gap) + 36
    picture.box(left, bottom - 18, 20, 20, fill=colours.blue, r=3)
    legend = f"probability of the right filter ({right} of 10 found)"
    picture.text(left + 30, bottom, legend, size=24, colour=colours.muted)
    if right < len(search.teacher):
        picture.box(left, bottom + 14, 20, 20, fill=colours.orange, r=3)
        picture.text(
            left + 30, bottom + 32, "probability of a wrong filter that was found", size=24, colour=colours.muted
        )
    return picture


def _fill(
    picture: Picture, values: Sequence[float], left: float, top: float, width: float, height: float, colour: str
) -> None:
    """The area under a curve of probabilities."""
    step = width / (len(values) - 1)
    points = " ".join(f"L{left + k * step:.1f},{top + height * (1 - value):.1f}" for k, value in enumerate(values))
    picture.path(f"M{left:g},{top + height:g} {points} L{left + width:g},{top + height:g} z", fill=colour, width=0)


def _draw_edge(picture: Picture) -> None:
    colours = picture.colours
    picture.text(40, 44, "A step runs one candidate per edge", size=30, weight=600)
    picture.text(40, 80, "drawn with the probabilities p = softmax(θ)", colour=colours.muted)
    candidates = {"conv 3×3": 0.46, "conv 1×1": 0.22, "pool": 0.18, "skip": 0.14}
    x, width, height, top = 180, 300, 64, 146
    middle = top + 2 * 80 - 8
    for row, (name, p) in enumerate(candidates.items()):
        y = top + row * 80
        centre = y + height / 2
        drawn = row == 0
        colour = colours.blue if drawn else colours.pale
        line: dict[str, Any] = {"colour": colour, "width": 5 if drawn else 3, "dash": "" if drawn else "3 8"}
        picture.path(f"M74,{middle} C120,{middle} 130,{centre} {x},{centre}", **line)
        picture.path(f"M{x + width},{centre} C{x + width + 52},{centre} 540,{middle} 586,{middle}", **line)
        picture.box(x, y, width, height, fill=colours.blue if drawn else "none", edge=colour)
        ink = colours.on_blue if drawn else colours.ink
        picture.text(x + 20, centre + 9, name, size=26, weight=600 if drawn else 400, colour=ink)
        picture.text(x + width - 20, centre + 9, f"{p:.2f}", colour=ink, anchor="end")
    for place, name in ((62, "in"), (598, "out")):
        picture.circle(place, middle, 32, fill=colours.ink)
        picture.text(place, middle + 8, name, size=24, weight=600, anchor="middle", colour=colours.on_blue)
    picture.path(
        f"M598,{middle - 40} L598,112 L330,112 L330,138", colour=colours.orange, width=4, dash="10 8", arrow=True
    )
    picture.text(40, 524, "One backward pass tells each edge what its", size=26, colour=colours.orange)
    picture.text(40, 558, "candidate did for the loss: the edge's credit.", size=26, colour=colours.orange)


def draw_two_steps(colours: Palette) -> Picture:
    """The weight step and the architecture step, on a network of three edges with three candidates each."""
    title = "A weight step trains the drawn candidates, and an architecture step moves the probabilities of each edge"
    picture = Picture(1400, 1010, title, colours)
    _draw_step(
        picture, 0, (0, 2, 1), "Weight step", "a batch for the weights", colours.blue,
        "∇w L", "The weights of the candidates that ran take a step. θ stays.",
    )  # fmt: skip
    _draw_step(
        picture, 510, (1, 2, 0), "Architecture step", "a batch for the architecture", colours.orange,
        "∂L/∂a", "Each edge gets its own credit A, and θ takes a step. The weights stay.",
    )  # fmt: skip
    return picture


def _draw_step(
    picture: Picture, top: float, draw: Sequence[int], name: str, batch: str, colour: str, back: str, effect: str
) -> None:
    colours = picture.colours
    picture.text(40, top + 48, name, size=36, weight=600, colour=colour)
    picture.text(40, top + 90, f"{batch}, a fresh draw of one candidate per edge", size=28, colour=colours.muted)
    rows, height, width, middle = (top + 130, top + 206, top + 282), 60, 200, top + 236
    nodes, gap = [150 + 330 * number for number in range(4)], 65
    for place in (0, 10, 20):
        picture.box(24 + place, middle - 44 + place, 66, 66, fill=colours.pale, edge=colours.muted, r=6)
    base = top + 400
    for edge, (node, drawn) in enumerate(zip(nodes, draw, strict=False)):
        for row, y in enumerate(rows):
            runs = row == drawn
            line: dict[str, Any] = {
                "colour": colour if runs else colours.pale, "width": 5 if runs else 3, "dash": "" if runs else "3 8"
            }  # fmt: skip
            x, centre = node + gap, y + height / 2
            for here, there in ((node, x), (node + 330, x + width)):
                bend = (here + there) / 2
                picture.path(f"M{here},{middle} C{bend},{middle} {bend},{centre} {there},{centre}", **line)
            picture.box(x, y, width, height, fill=colour if runs else "none", edge=line["colour"])
            ink, weight = (colours.on_blue, 600) if runs else (colours.muted, 400)
            label = f"candidate {row + 1}"
            picture.text(x + width / 2, centre + 9, label, size=26, anchor="middle", colour=ink, weight=weight)
        below = node + gap + width / 2
        picture.path(f"M{below},{base} L{below},{top + 354}", colour=colour, width=4, dash="10 8", arrow=True)
        if name == "Architecture step":
            picture.text(below + 16, base - 14, f"A{'₁₂₃'[edge]}", size=30, weight=600, colour=colour)
    for node in nodes:
        picture.circle(node, middle, 12, fill=colours.ink)
    picture.path(f"M{nodes[-1] + 16},{middle} L1206,{middle}", colour=colour, width=5, arrow=True)
    picture.circle(1262, middle, 46, fill=colours.ink)
    picture.text(1262, middle + 10, "loss L", size=26, weight=600, anchor="middle", colour=colours.on_blue)
    picture.path(f"M1262,{middle + 54} L1262,{base} L{nodes[0] + 165},{base}", colour=colour, width=4, dash="10 8")
    picture.text(1280, base - 14, back, size=30, weight=600, colour=colour)
    picture.text(40, base + 56, effect, size=28)


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description="Make the pictures of the README and the documentation.")
    parser.add_argument("--output", type=Path, default=IMAGES)
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    search = search_toy()
    for name, colours in PALETTES.items():
        draw_search(search, colours).save(folder / f"search-{name}.svg")
        draw_two_steps(colours).save(folder / f"two_steps-{name}.svg")


if __name__ == "__main__":
    main()

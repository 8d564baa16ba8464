"""The live display of a search as it is drawn: a bar over the whole run, its values, and its edges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from advnas_lightning.callbacks.standing import WORDS, Standing, short_names
from advnas_lightning.texts import encodable, shortened, writable

BAR = 8  # columns that the bar has at least
ROWS = 2  # lines of edges
LONGEST, LONGEST_EDGE = 20, 24  # characters of a candidate's and of an edge's name
GAP = "  "


@dataclass
class View:
    """What the live display shows. Each of its lines fits the terminal, whatever its width.

    Attributes:
        title: What runs.
        epoch: Which epoch runs, in words.
        share: The share of the whole run that is done; ``None`` if nobody can know it.
        time: The time that is left or has passed, in words.
        status: What happens beside training, such as a validation; empty while it trains.
        losses: The losses by name.
        others: Other logged values by name. Those that do not fit are left out.
        score: The score of the architecture that would be reported.
        standing: The edges; ``None`` where nothing is searched.

    Example:
        >>> view = View("GDAS on toy", "epoch 3 of 20", 0.125, "0:07 left", losses={"architecture/loss": 0.25})
        >>> Console(width=60).print(view)
        GDAS on toy  epoch 3 of 20  ━╸               12 %  0:07 left
        architecture/loss 0.25
    """

    title: str
    epoch: str
    share: float | None
    time: str
    status: str = ""
    losses: dict[str, float] = field(default_factory=dict)
    others: dict[str, float] = field(default_factory=dict)
    score: str = ""
    standing: Standing | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the lines of the display, as rich asks for them."""
        width = options.max_width
        yield self._bar(width)
        yield self._values(width)
        if self.standing is not None:
            yield from _edges(self.standing, width, "* " if options.ascii_only else "●○")

    def _bar(self, width: int) -> Table:
        percent = "" if self.share is None else f"{100 * self.share:.0f} %"
        right = GAP.join(filter(None, (percent, self.time)))
        room = width - cell_len(self.epoch) - cell_len(right) - BAR - 3 * len(GAP)
        title = _short(self.title, max(room, 8))
        line = Table.grid(padding=(0, len(GAP), 0, 0), expand=True)
        parts = (Text(title, style="bold"), Text(self.epoch), ProgressBar(1, self.share or 0.0), Text(right))
        for part in parts:
            line.add_column(no_wrap=True, ratio=1 if isinstance(part, ProgressBar) else None)
        line.add_row(*parts)
        return line

    def _values(self, width: int) -> Text:
        """The line of values: the most important ones that fit, in a fixed order."""
        parts = [(0, self.status, "dim")] * bool(self.status)
        parts += [(1, f"{name} {value:.4g}", "") for name, value in self.losses.items()]
        if self.standing is not None:
            count = len(self.standing.edges)
            parts += [
                (4, f"entropy {self.standing.entropy:.3f}", ""),
                (3, f"{self.standing.settled}/{count} settled", ""),
            ]
        parts += [(1, self.score, "bold")] * bool(self.score)
        parts += [(2, WORDS[self.standing.kind], "")] if self.standing is not None else []
        parts += [(5, f"{name} {value:.4g}", "dim") for name, value in self.others.items()]
        room, chosen = width, set()
        for place in sorted(range(len(parts)), key=lambda place: parts[place][0]):
            needed = cell_len(encodable(parts[place][1]))
            if needed <= room:
                room -= needed + len(GAP)
                chosen.add(place)
        shown = [Text(encodable(parts[place][1]), style=parts[place][2]) for place in sorted(chosen)]
        return Text(GAP, no_wrap=True, overflow="crop").join(shown)


def _edges(standing: Standing, width: int, signs: str) -> Iterator[Text]:
    """Lines of edges in columns, settled ones marked; what does not fit in them is counted."""
    names = short_names([edge.name for edge in standing.edges])
    cells = []
    for name, edge in zip(names, standing.edges, strict=True):
        text = f"{_short(name, LONGEST_EDGE)} {_short(edge.candidate, LONGEST)}"
        certain = "" if edge.has_settled else f" {100 * edge.probability:.0f}%"
        cells.append(Text(f"{signs[not edge.has_settled]}{text}{certain}", style="green" if edge.has_settled else ""))
    size = max(cell.cell_len for cell in cells) + 1
    columns = max(1, (width + 1) // size)
    if len(cells) > ROWS * columns:
        kept = ROWS * columns - 1
        cells = [*cells[:kept], Text(f"+{len(cells) - kept} more", style="dim")]
    for start in range(0, len(cells), columns):
        line = Text(no_wrap=True, overflow="crop")
        for cell in cells[start : start + columns]:
            line.append_text(cell)
            line.pad_right(size - cell.cell_len)
        line.rstrip()
        yield line


def _short(text: str, most: int) -> str:
    """The text without its middle if it is long, in characters that the standard output can write."""
    return encodable(writable(shortened(text, most)))

"""The progress of a search: a live display in a terminal, and elsewhere a line for each epoch."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.live import Live

from advnas_lightning.callbacks.share import share_done
from advnas_lightning.callbacks.standing import Standing
from advnas_lightning.callbacks.summary import SummaryCallback
from advnas_lightning.callbacks.view import View
from advnas_lightning.engine.lightning_private import batches_used
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.pace import Pace, as_clock
from advnas_lightning.texts import encodable

PERIOD = 0.25  # seconds between two drawings; a step of the toy task takes a hundredth of that time
SHARE = 0.01  # of the time may be spent on drawing; where a drawing takes longer, there are fewer
PATIENCE = 0.5  # seconds of an evaluation after a training before it is shown
HIDDEN = ("v_num", "entropy", "seconds")  # logged values that the display shows in another way, or not


def progress_display(job: str = "", title: str = "") -> ProgressBar:
    """The progress display that suits the standard output.

    Args:
        job: The name of a run that may share the output with others. Each line begins with it.
        title: What runs, for the live display.

    Example:
        >>> type(progress_display("job 3")).__name__
        'EpochLines'
    """
    return SearchProgressBar(title) if sys.stdout.isatty() and not job else EpochLines(job)


def cell(search: SearchStrategy) -> str:
    """The candidates that a search would report now, in the order of the edges, as one text.

    Example:
        >>> from torch import nn
        >>> from advnas_lightning import MixedOp, RandomSearch
        >>> edges = (MixedOp(name, {"skip": nn.Identity(), "relu": nn.ReLU()}) for name in ("first", "second"))
        >>> len(cell(RandomSearch(nn.Sequential(*edges))).split())  # a tie, broken by the seed
        2
    """
    return encodable(" ".join(search.genotype(search.selected).values()))


class SearchProgressBar(ProgressBar):
    """Shows a search in a few lines of the terminal, with one bar over all epochs and the time that is left.

    Below the bar are the losses, the number of settled edges, the score of the task if it has one, and the edges with
    the candidates of the architecture that the search would report now. An edge has settled when its most probable
    candidate has a probability of at least 0.9. The display is drawn at most four times a second, and as rarely as is
    needed to take 1 % of the time.

    Args:
        title: What runs; by default the name of the strategy's class.
        console: Where the display is drawn; by default the standard output.

    Example:
        >>> SearchProgressBar("GDAS on toy").title
        'GDAS on toy'
    """

    def __init__(self, title: str = "", *, console: Console | None = None) -> None:
        super().__init__()
        self.title = title
        self._console = console
        self._is_enabled = True
        self._live: Live | None = None
        self._handlers: list[tuple[logging.StreamHandler[Any], Any]] = []
        self._pace = Pace()
        self._next = 0.0  # the time of the next drawing
        self._costs: deque[float] = deque(maxlen=3)  # the seconds that the last drawings took
        self._began = 0.0
        self._batches = 0  # of the current epoch that are done
        self._evaluated = 0  # batches of the current evaluation
        self._was_searching = False
        self._status = ""

    def disable(self) -> None:
        """Draw nothing from now on. Lightning calls this in all processes but the first one."""
        self._is_enabled = False
        self._stop()

    def enable(self) -> None:
        """Draw again from now on."""
        self._is_enabled = True

    # -- training ------------------------------------------------------------------------------------------------------

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the display with the validation that Lightning tries before it trains."""
        self._start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the display where training begins, or where it goes on."""
        self._batches, self._status, self._pace = batches_used(trainer) or 0, "", Pace()
        self._began = time.monotonic()
        self._start()
        self._draw(trainer, pl_module)
        self._next = 0.0  # the first drawing takes longer than the others, and says nothing yet

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time, by which the rest of the training is foreseen."""
        self._batches = batches_used(trainer) or 0
        if isinstance(pl_module, SearchStrategy) and pl_module.searching != self._was_searching:
            self._was_searching = pl_module.searching
            self._pace.restart()
        self._pace.note(share_done(trainer, self._batches), time.monotonic())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw the display, unless it was drawn just before."""
        self._batches = batch_idx + 1
        self._draw_if_due(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last state, and leave it in the terminal."""
        self._status = ""
        self._draw(trainer, pl_module, is_over=True)
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the display in the terminal, in its last state if the training was interrupted."""
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            self._draw(trainer, pl_module)
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the display if nothing was trained."""
        if self._live is not None:
            self._live.transient = True
        self._stop()

    # -- evaluations ---------------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the batches of a validation from here."""
        self._begin_evaluation(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Show how far a validation is, unless the display was drawn just before."""
        checking = trainer.sanity_checking
        counts = trainer.num_sanity_val_batches if checking else trainer.num_val_batches
        self._evaluate(trainer, pl_module, "checking the validation" if checking else "validating", counts)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the display of the training."""
        self._end_evaluation(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the batches of a test from here."""
        self._begin_evaluation(trainer)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Show how far a test is."""
        self._evaluate(trainer, pl_module, "testing", trainer.num_test_batches)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the line of the test."""
        self._end_evaluation(trainer)

    def _begin_evaluation(self, trainer: Trainer) -> None:
        self._evaluated = 0
        if not _is_fitting(trainer):
            self._next = time.monotonic() + PATIENCE

    def _evaluate(self, trainer: Trainer, module: LightningModule, doing: str, counts: Any) -> None:
        self._evaluated += 1
        total = sum(counts) if isinstance(counts, Iterable) else counts
        self._status = f"{doing} {self._evaluated}" + (f"/{total}" if isinstance(total, int) else "")
        if _is_fitting(trainer):
            self._draw_if_due(trainer, module)
        elif time.monotonic() >= self._next:
            self._start(transient=True)
            if self._live is not None:
                self._live.update(self._status, refresh=True)
                self._next = time.monotonic() + PERIOD

    def _end_evaluation(self, trainer: Trainer) -> None:
        self._status = ""
        if not _is_fitting(trainer):
            self._stop()

    # -- drawing -------------------------------------------------------------------------------------------------------

    def view(self, trainer: Trainer, module: LightningModule, *, is_over: bool = False) -> View:
        """What the display shows now.

        Args:
            trainer: The Trainer.
            module: The search.
            is_over: Whether the training has ended.
        """
        now, last = time.monotonic(), trainer.max_epochs
        has_end = last is not None and last > 0
        number = trainer.current_epoch + (not is_over)  # at the end this is the number of epochs that are done
        share = share_done(trainer, self._batches)
        left = self._pace.left(share, now)
        passed = as_clock(now - self._began)
        span = f"{passed} so far" if left is None else f"{as_clock(left)} left"
        view = View(
            self.title or type(module).__name__,
            f"epoch {number}" + (f" of {last}" if has_end else ""),
            share,
            f"done in {passed}" if is_over else "" if trainer.sanity_checking else span,
            status=self._status,
        )
        metrics = {name: value for name, value in self.get_metrics(trainer, module).items() if name not in HIDDEN}
        for name, value in metrics.items():
            if isinstance(value, float | int):
                (view.losses if name.startswith(("train/loss", "architecture/loss")) else view.others)[name] = value
        if isinstance(module, SearchStrategy):
            callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
            scores = [each.score(module) for each in callbacks if isinstance(each, SummaryCallback)]
            view.score = "  ".join(filter(None, scores))
            if module.searches:
                view.standing = Standing.of(module)
            if module.searches and not module.searching and not is_over:
                view.status = view.status or f"warm-up, searches from epoch {module.warmup_epochs + 1}"
                view.time = view.time if left is None else f"over {view.time}"  # the search takes longer than a warm-up
        return view

    def _draw_if_due(self, trainer: Trainer, module: LightningModule) -> None:
        if time.monotonic() >= self._next:
            self._draw(trainer, module)

    def _draw(self, trainer: Trainer, module: LightningModule, *, is_over: bool = False) -> None:
        if self._live is None:
            return
        began = time.monotonic()
        self._live.update(self.view(trainer, module, is_over=is_over), refresh=True)
        ended = time.monotonic()
        self._costs.append(ended - began)
        self._next = ended + max(PERIOD, min(self._costs) / SHARE)

    def _start(self, *, transient: bool = False) -> None:
        """Take the terminal's last lines for the display; what is printed meanwhile appears above them."""
        if self._live is not None or not self._is_enabled:
            return
        console = self._console or Console(soft_wrap=True)  # so that no printed line is broken into two
        self._live = Live(console=console, auto_refresh=False, transient=transient)
        self._live.start()
        for name in (None, "lightning.pytorch", "lightning.fabric"):
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.__stderr__, sys.__stdout__):
                    self._handlers.append((handler, handler.setStream(sys.stderr)))  # which the display has taken

    def _stop(self) -> None:
        for handler, stream in self._handlers:
            handler.setStream(stream)
        self._handlers.clear()
        if self._live is not None:
            self._live.stop()
            self._live = None


class EpochLines(ProgressBar):
    """Prints a line at the end of each epoch, for files and pipes.

    Args:
        job: The name of the run, with which each line begins.

    Example:
        >>> EpochLines("job 3").state_key
        'EpochLines'
    """

    def __init__(self, job: str = "") -> None:
        super().__init__()
        self._job = job
        self._is_enabled = True
        self._pace = Pace()

    def disable(self) -> None:
        """Print nothing from now on. Lightning calls this in all processes but the first one."""
        self._is_enabled = False

    def enable(self) -> None:
        """Print lines again from now on."""
        self._is_enabled = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time, by which the rest of the training is foreseen."""
        self._pace.note(share_done(trainer, batches_used(trainer) or 0), time.monotonic())

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the time that is left, the epoch's values, and what the search would report now."""
        if not self._is_enabled:
            return
        assert isinstance(pl_module, SearchStrategy)
        last = trainer.max_epochs
        place = f"epoch {trainer.current_epoch + 1}" + (f"/{last}" if last is not None and last > 0 else "")
        each = trainer.num_training_batches
        left = self._pace.left(share_done(trainer, int(each) if each < float("inf") else 0), time.monotonic())
        values = {name: f"{value:.4g}" for name, value in trainer.callback_metrics.items()}
        parts = [self._job, place, "" if left is None else f"{as_clock(left)} left", f"step {pl_module.clock.batches}"]
        if pl_module.searches:
            standing = Standing.of(pl_module)  # the search logs its entropy after its callbacks have run
            values |= {
                "entropy": f"{standing.entropy:.4g}",
                "settled": f"{standing.settled}/{len(standing.edges)}",
                standing.kind: cell(pl_module),
            }
        parts += [f"{name} {value}" for name, value in values.items()]
        print(encodable("  ".join(filter(None, parts))), flush=True)


def _is_fitting(trainer: Trainer) -> bool:
    return trainer.state.fn == "fit"

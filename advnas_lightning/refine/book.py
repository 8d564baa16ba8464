"""The book of a refinement's trainings: an Optuna study, which survives a killed process and serves several ones."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from advnas_lightning.folder_lock import FolderLock, turn_in
from advnas_lightning.refine.ladder import WIDTHS, Ladder, State, Trial
from advnas_lightning.refine.packages import storage_error
from advnas_lightning.space.genotype import Genotype

__all__ = ["NAME", "TrialBook", "is_pruned"]

NAME = "refine"  # of the study
TRIALS = "trials"  # the folder of the trainings' folders
JOURNAL, DATABASE = "optuna.log", "optuna.db"  # of Optuna 4 and later, and of Optuna 2
STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
}
PRUNED = "pruned"  # an attribute of a running trial, since Optuna lets no pruned one go on


class TrialBook:
    """Keeps the trainings of a refinement as the trials of an Optuna study, one categorical parameter for each edge.

    Several processes may write the same book. Each takes turns (:meth:`turn`) to read it and to change it. A process
    holds the training that it works on, and the operating system frees it when the process ends in whatever way.

    Args:
        folder: The folder of the book; without one it is in memory.
        candidates: The names of the candidates of each edge.
        rungs: The numbers of epochs after which each training is scored.
        maximize: Whether the highest score is the best one.
        metric: The name of the score.

    Example:
        >>> book = TrialBook(None, {"edge": ["skip", "tanh"]}, (1, 2), maximize=True)
        >>> number = book.add(Genotype({"edge": "tanh"}), "argmax", 0)
        >>> book.begin(number, 1)
        >>> book.report(number, 1, 0.5, seconds=3.0)
        >>> book.finish(number, "pruned")
        >>> (trial,) = book.ladder().trials
        >>> trial.state, trial.scores, trial.seconds
        ('pruned', {1: 0.5}, 3.0)
    """

    def __init__(
        self,
        folder: Path | None,
        candidates: Mapping[str, Sequence[str]],
        rungs: tuple[int, ...],
        *,
        maximize: bool,
        metric: str = "score",
    ) -> None:
        self.folder, self.rungs, self.maximize, self.metric = folder, rungs, maximize, metric
        self._distributions = {edge: CategoricalDistribution(tuple(row)) for edge, row in candidates.items()}
        self._held: dict[int, FolderLock] = {}
        optuna.logging.set_verbosity(logging.WARNING)
        with self.turn():
            self._storage = _storage(folder)
            sampler = optuna.samplers.RandomSampler(seed=0)  # which nothing is left to
            try:
                self._study = optuna.load_study(study_name=NAME, storage=self._storage, sampler=sampler)
            except KeyError:
                direction = "maximize" if maximize else "minimize"
                self._study = optuna.create_study(
                    study_name=NAME, storage=self._storage, sampler=sampler, direction=direction
                )

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A context in which no other process reads or changes the book.

        Raises:
            ValueError: Its file is damaged, or cannot be written.
        """
        if self.folder is None:
            yield
            return
        with turn_in(self.folder):
            try:
                yield
            except Exception as error:
                reason = str(error) if isinstance(error, OSError | JSONDecodeError) else storage_error(error)
                if reason is None:
                    raise
                raise ValueError(
                    f"{_file(self.folder)} cannot be read or written ({reason}): make room on the disk, or move"
                    f" {self.folder} away to begin anew"
                ) from error

    def ladder(self) -> Ladder:
        """All trainings so far."""
        trials = [self._read(each) for each in self._study.get_trials(deepcopy=False)]
        return Ladder(sorted(trials, key=lambda trial: trial.number), self.rungs, self.maximize, self.metric)

    def trial(self, number: int) -> Trial:
        """One of the trainings."""
        return next(trial for trial in self.ladder().trials if trial.number == number)

    def add(self, genotype: Genotype, proposed_by: str, round_: int, repeat: int = 0, among: int = WIDTHS[0]) -> int:
        """Add a training of an architecture, and give its number. The arguments are what its :class:`Trial` has."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # as Optuna 2 calls it
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params={edge: genotype[edge] for edge in self._distributions},
                    distributions=dict(self._distributions),
                    user_attrs={
                        "proposed_by": proposed_by,
                        "round": round_,
                        "repeat": repeat,
                        "among": among,
                        "begun": 0,
                        "seconds": 0.0,
                    },
                )
            )
        return len(self._study.get_trials(deepcopy=False)) - 1

    def begin(self, number: int, epochs: int) -> None:
        """Note that an architecture is being trained to a number of epochs."""
        self._open(number).set_user_attr("begun", epochs)

    def report(self, number: int, epochs: int, score: float, *, seconds: float) -> None:
        """Note the score after a number of epochs, and the seconds since the rung before."""
        trial = self._open(number)
        trial.set_user_attr("seconds", trial.user_attrs["seconds"] + seconds)
        trial.report(score, epochs)

    def finish(self, number: int, state: State) -> None:
        """Note that a training is ``complete``, ``pruned`` or ``failed``."""
        if state == "pruned":
            self._open(number).set_user_attr(PRUNED, True)
            return
        trial = self.trial(number)
        value = trial.scores[self.rungs[-1]] if state == "complete" else None
        self._study.tell(number, value, state=next(each for each, name in STATES.items() if name == state))

    def take_up(self, number: int, among: int) -> None:
        """Let a pruned training go on, which then has to be better than one of so many best architectures."""
        trial = self._open(number)
        trial.set_user_attr("among", among)
        trial.set_user_attr(PRUNED, False)

    def place(self, number: int) -> Path:
        """The folder for the checkpoints of a training."""
        return (self.folder or Path()) / TRIALS / str(number)

    def hold(self, number: int) -> bool:
        """Take a training for this process, unless another process has it."""
        if self.folder is None:
            return True
        lock = FolderLock(self.place(number))
        with suppress(ValueError):  # another process works on it
            lock.acquire()
            self._held[number] = lock
            return True
        return False

    def let_go(self, number: int) -> None:
        """Let another process go on with a training that this one holds. One that is over loses its checkpoint."""
        lock = self._held.pop(number, None)
        if lock is not None:
            if self.trial(number).state in ("complete", "failed"):
                shutil.rmtree(self.place(number), ignore_errors=True)
            lock.release()

    def clear(self) -> None:
        """Remove the checkpoints of trainings that were pruned, when none of them will go on."""
        if self.folder is not None:
            shutil.rmtree(self.folder / TRIALS, ignore_errors=True)

    def _read(self, trial: FrozenTrial) -> Trial:
        noted = trial.user_attrs
        return Trial(
            trial.number,
            Genotype({edge: trial.params[edge] for edge in self._distributions}),  # which a file gives by the alphabet
            "pruned" if noted.get(PRUNED) else STATES[trial.state],
            dict(sorted(trial.intermediate_values.items())),
            noted["proposed_by"],
            noted["round"],
            noted["seconds"],
            noted["begun"],
            noted["repeat"],
            noted["among"],
        )

    def _open(self, number: int) -> optuna.trial.Trial:
        study = self._storage.get_study_id_from_name(NAME)
        return optuna.trial.Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(study, number))


def is_pruned(trial: Trial, ladder: Ladder) -> bool:
    """Whether successive halving stops a training at the last rung that it has reached.

    Optuna's pruner for it lets those go on that are among the best 1/η of all that have a score at the same rung, and
    always the best one, where the rungs grow by the factor η (Li et al. 2020, ASHA). It is asked in a study in memory
    that gets all scores of first trainings again: in the study of the book it would remember that it was asked, and a
    process that is killed before it has noted the answer could not ask again.

    Args:
        trial: The training.
        ladder: All trainings, this one among them.

    Example:
        >>> edges = [Genotype({"edge": name}) for name in ("skip", "tanh", "relu")]
        >>> trials = [Trial(i, edge, "unfinished", {1: i}, "draw", 0, 1.0, 1) for i, edge in enumerate(edges)]
        >>> ladder = Ladder(trials, (1, 2), maximize=True)
        >>> [is_pruned(trial, ladder) for trial in trials]
        [True, True, False]
    """
    rungs = ladder.rungs
    if len(rungs) == 1:
        return False
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=rungs[0], reduction_factor=rungs[1] // rungs[0])
    direction = "maximize" if ladder.maximize else "minimize"
    study = optuna.create_study(direction=direction, pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
    asked = False
    for each in (*(other for other in ladder.first if other.number != trial.number), trial):
        again = study.ask()
        for epochs, score in each.scores.items():
            again.report(score, epochs)
            asked = again.should_prune()
    return asked


def _storage(folder: Path | None) -> Any:
    if folder is None:
        return optuna.storages.InMemoryStorage()
    folder.mkdir(parents=True, exist_ok=True)
    file = _file(folder)
    if file.name == DATABASE:
        return optuna.storages.RDBStorage(f"sqlite:///{file}")
    journal: Any = import_module("optuna.storages.journal")  # which Optuna 2 does not have
    _mend(file)
    return journal.JournalStorage(journal.JournalFileBackend(str(file), _NoLock()))


def _file(folder: Path) -> Path:
    return folder / (DATABASE if int(optuna.__version__.partition(".")[0]) < 4 else JOURNAL)


class _NoLock:
    """Stands for Optuna's lock of a journal, which a killed process would leave locked: who has a turn is alone."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _mend(journal: Path) -> None:
    """Remove a last line that is not whole, which a process has left that was killed while it wrote."""
    if journal.exists() and not (content := journal.read_bytes()).endswith(b"\n"):
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)

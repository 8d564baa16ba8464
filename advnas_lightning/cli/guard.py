"""Guards a run's start: wrong settings are refused, and nobody changes a folder that another run uses or has used.

Nothing here imports PyTorch before there is something to go on with.
"""

from __future__ import annotations

import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from advnas_lightning.cli.checks import check_settings
from advnas_lightning.cli.errors import explain_line, fail
from advnas_lightning.cli.process import lightning_logs_alone
from advnas_lightning.cli.sweeps import jobs
from advnas_lightning.folder_lock import LOCK, FolderLock, is_first_process
from advnas_lightning.runs import CONFIG, HYDRA, SWEEP, RunFolder


@dataclass
class Held:
    """A folder that this command line holds, and what a run that goes on in it has found there.

    Attributes:
        folder: The folder.
        made: The outermost folder that was made for it, if it was not there before.
        checkpoint: The checkpoint to go on from.
        written: When that was written, in ns.
        settings: Hydra's files in the folder.

    Example:
        >>> Held(Path("outputs")).settings
        {}
    """

    folder: Path
    made: Path | None = None
    checkpoint: Path | None = None
    written: int = 0
    settings: dict[Path, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lock = FolderLock(self.folder)
        missing = [each for each in (self.folder, *self.folder.parents) if not each.exists()]
        self.made = missing[-1] if missing else None

    def leave_nothing(self) -> None:
        """Remove the folder if it was made for a run that has left nothing in it but Hydra's files."""
        ours = (LOCK, HYDRA)
        if self.made is not None and all(
            path.is_dir() or path.relative_to(self.folder).parts[0] in ours for path in self.folder.rglob("*")
        ):
            shutil.rmtree(self.folder, ignore_errors=True)
            for parent in self.folder.parents:
                if not parent.is_relative_to(self.made) or any(parent.iterdir()):
                    break
                parent.rmdir()

    def restore_settings(self) -> None:
        """Put Hydra's files back, unless a checkpoint was saved since then."""
        if self.checkpoint is not None and self.checkpoint.stat().st_mtime_ns == self.written:
            for path, content in self.settings.items():
                path.write_bytes(content)


_held: list[Held] = []


class RunGuard(Callback):
    """Holds a run's folder and compares its settings, before Hydra writes the new ones over those that are there.

    ``conf/config.yaml`` sets it as ``hydra.callbacks.run``.

    Example:
        >>> from hydra.utils import instantiate
        >>> type(instantiate({"_target_": "advnas_lightning.cli.guard.RunGuard"})).__name__
        'RunGuard'
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hold the folder of a run, and compare its settings with those of its checkpoint.

        Raises:
            SystemExit: Another process uses the folder, or it has a run that was made with other settings.
        """
        _guard(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hold the folder of a sweep.

        Raises:
            SystemExit: Another process uses it.
        """
        _guard(config, "sweep")


@contextmanager
def guarded() -> Iterator[None]:
    """A context for the command line, after which it holds no folder.

    A run that fails before it saves anything leaves no folder. One that goes on leaves Hydra's files in its folder as
    they were.

    Example:
        >>> with guarded():
        ...     print("running")
        running
    """
    try:
        yield
    except BaseException:
        for each in _held:
            each.restore_settings()
            each.leave_nothing()
        raise
    finally:
        while _held:
            _held.pop().lock.release()


def _guard(config: DictConfig, mode: Literal["run", "sweep"]) -> None:
    if not is_first_process():
        return
    HydraConfig.instance().set_config(config)  # as Hydra does it next; the folder's name depends on it
    try:
        _refuse_other_mode(config, mode)
        _check(config, mode)
        held = Held(Path(config.hydra[mode].dir))
        if mode == "run":
            _go_on(config, held)
        held.lock.acquire()  # which makes the folder
        _held.append(held)
    except Exception as error:  # Hydra would only warn of it
        fail(error, sys.argv[1:])


def _refuse_other_mode(config: DictConfig, mode: Literal["run", "sweep"]) -> None:
    """Refuse the folder of a sweep for a run, that of a run for a sweep, and a setting that is for the other one."""
    other, sign = ("sweep", SWEEP) if mode == "run" else ("run", CONFIG)
    given = {each.lstrip("+").partition("=")[0]: each for each in config.hydra.overrides.hydra}
    if not config.hydra[mode].dir:
        raise ValueError(f"hydra.{mode}.dir has no value: name a folder, or leave it out")
    if f"hydra.{other}.dir" in given and f"hydra.{mode}.dir" not in given:
        raise ValueError(
            f"{given[f'hydra.{other}.dir']}: this is a {mode}, whose folder is hydra.{mode}.dir; -m makes a sweep"
        )
    folder = Path(config.hydra[mode].dir)
    if (folder / sign).exists():
        how = "with -m and" if other == "sweep" else "without -m, with"
        raise ValueError(
            f"{folder} has a {other}: go on with it {how} hydra.{other}.dir={folder}, or set another hydra.{mode}.dir"
        )


def _check(config: DictConfig, mode: Literal["run", "sweep"]) -> None:
    """Check the settings of a run, or of as many of a sweep's jobs as have all its values among them."""
    if mode == "run" or not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        check_settings(config)
        return
    seen: set[str] = set()
    for overrides in jobs(config):
        kinds = {re.sub(r"=-?\d+$", "=0", each) for each in overrides}  # one whole number is as good as another
        if not seen.issuperset(kinds):
            seen.update(kinds)
            try:
                job = GlobalHydra.instance().config_loader().load_sweep_config(config, overrides)
                HydraConfig.instance().set_config(job)
                check_settings(job)
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                raise ValueError(explain_line(error, overrides)) from None
    HydraConfig.instance().set_config(config)


def _go_on(config: DictConfig, held: Held) -> None:
    """Note what a run finds in its folder, and compare its settings with those of its checkpoint."""
    if not held.folder.exists() and config.ckpt_path in (None, "last"):
        return  # there is nothing to go on with
    if config.ckpt_path not in (None, "last") and not Path(config.ckpt_path).exists():
        raise FileNotFoundError(f"there is no checkpoint {config.ckpt_path}: name the checkpoints/last.ckpt of a run")
    with lightning_logs_alone():
        from advnas_lightning.callbacks.checkpoint import LastCheckpoint
        from advnas_lightning.cli.going_on import find_checkpoint, refuse_other_settings

    saving = LastCheckpoint(RunFolder(held.folder).checkpoints)
    with warnings.catch_warnings(action="ignore"):  # the run says it again
        checkpoint = find_checkpoint(config.ckpt_path, saving)
    if checkpoint is not None and checkpoint.resolve().parent == saving.folder.resolve():
        refuse_other_settings(config, checkpoint)  # of another folder's, the search itself refuses them
        held.checkpoint, held.written = checkpoint, checkpoint.stat().st_mtime_ns
        held.settings = {path: path.read_bytes() for path in (held.folder / HYDRA).glob("*.yaml")}

"""What the command line runs: a search or a training, and what becomes of its errors."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig

from advnas_lightning.cli.checks import suggestion
from advnas_lightning.cli.errors import explain, wants_traceback
from advnas_lightning.cli.export_found import export_found
from advnas_lightning.cli.process import go_on_line
from advnas_lightning.cli.queued import saved_before_requeue
from advnas_lightning.cli.retrain import retrain
from advnas_lightning.cli.run import run
from advnas_lightning.cli.sweeps import is_finished
from advnas_lightning.folder_lock import FolderLock, is_first_process
from advnas_lightning.runs import RunFolder, is_retrained
from advnas_lightning.texts import plain


def job(config: DictConfig) -> float | None:
    """Run one configuration in Hydra's folder for it.

    Args:
        config: The composed configuration.

    Returns:
        The result ``optimized_metric``, for a sweeper that optimizes; ``None`` if none is asked for.

    Raises:
        SystemExit: A single run has failed. A job of a sweep leaves ``error.txt`` in its folder, and the others go on.
    """
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    is_job = settings.mode == RunMode.MULTIRUN
    files = RunFolder(folder)
    if is_job and is_finished(folder):
        return _result(config, files)
    files.error.unlink(missing_ok=True)
    line = go_on_line(sys.argv, settings)
    try:
        with saved_before_requeue(), FolderLock(folder) if is_job and is_first_process() else nullcontext():
            if not (is_job and files.has_summary):
                run(config, folder, line)
            if config.refine and not config.retraining:
                from advnas_lightning.cli.refine_found import refine_found  # which needs the extra refine

                refine_found(config, folder)
            if is_retrained(config):
                retrain(folder, line, "refined" if config.refine else None)
            if config.export:
                export_found(config, folder)
            return _result(config, files)
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # Lightning itself exits with the status of success
    except Exception as error:
        message = explain(error)
        if is_job:  # the sweep's other jobs go on
            message = message or plain(f"{type(error).__name__}: {error}".splitlines()[0])
            files.save_error(message, error)
            if not sys.stderr.isatty():  # there the sweep's own process shows it
                print(f"error: {message} ({os.path.relpath(files.error)})", file=sys.stderr)
            return None
        if message is None or wants_traceback():
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)


def _result(config: DictConfig, files: RunFolder) -> float | None:
    """The result that the run returns: that of the training from scratch, if there is one."""
    name = config.optimized_metric
    if name is None or not is_first_process():
        return None
    results = (files.retrained if is_retrained(config) else files).results()
    if name not in results:
        raise ValueError(f"optimized_metric={name} is no result of this run: {suggestion(name, sorted(results))}")
    return results[name]

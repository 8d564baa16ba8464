"""The command line ``python -m advnas_lightning``."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from advnas_lightning.cli.config import CONFIG_PATH
from advnas_lightning.cli.guard import guarded
from advnas_lightning.cli.process import go_on_line, lost_process
from advnas_lightning.cli.retrain import retrain
from advnas_lightning.cli.run import run
from advnas_lightning.cli.sweeps import is_finished
from advnas_lightning.folder_lock import FolderLock, is_first_process
from advnas_lightning.runs import RunFolder
from advnas_lightning.texts import plain

# A wrong key, value, path or file raises one of these errors. HYDRA_FULL_ERROR=1 shows the traceback.
USER_ERRORS = (
    FloatingPointError,
    InstantiationException,
    MisconfigurationException,
    OmegaConfBaseException,
    OSError,
    TypeError,
    ValueError,
)


def explain(error: Exception) -> str | None:
    """One line on an error that the user can mend; ``None`` for an error that is a mistake in the code.

    Example:
        >>> explain(FileNotFoundError("there is no checkpoint last.ckpt"))
        'there is no checkpoint last.ckpt'
        >>> explain(IndexError("list index out of range"))
    """
    if not isinstance(error, USER_ERRORS):
        return lost_process(error) if isinstance(error, RuntimeError) else None
    # Hydra wraps the error of a constructor. The last line of Hydra's own message names the key.
    message = str(error.__cause__ or error).strip().replace("\n", " ")
    key = str(error).strip().splitlines()[-1] if isinstance(error, InstantiationException) else ""
    return plain(message + (f" ({key})" if key.startswith("full_key") else ""))


def quote_cells(argument: str) -> str:
    """Put NAS-Bench-201's cells in quotes, because Hydra's grammar does not allow their ``~`` without quotes.

    Example:
        >>> quote_cells("strategy.genotype=|none~0|,|skip_connect~0|")
        'strategy.genotype="|none~0|","|skip_connect~0|"'
    """
    return re.sub(r"(?<=[=,])\|[^,'\"]*(?=,|$)", r'"\g<0>"', argument)


def main() -> None:
    """Run the command line."""
    sys.argv[1:] = map(quote_cells, sys.argv[1:])
    try:
        with guarded():
            _main()
    except KeyboardInterrupt:  # while no training runs: there is nothing to save
        print("error: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="config")
def _main(config: DictConfig) -> None:
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    is_job = settings.mode == RunMode.MULTIRUN
    files = RunFolder(folder)
    if is_job and is_finished(folder):
        return
    files.error.unlink(missing_ok=True)
    line = go_on_line(sys.argv, settings)
    try:
        with FolderLock(folder) if is_job and is_first_process() else nullcontext():
            if not (is_job and files.has_summary):
                run(config, folder, line)
            if config.retrain and not config.retraining:
                retrain(folder, line)
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # Lightning itself exits with the status of success
    except Exception as error:
        message = explain(error)
        if is_job:  # the sweep's other jobs go on
            message = message or plain(f"{type(error).__name__}: {error}".splitlines()[0])
            files.save_error(message, error)
            if not sys.stderr.isatty():  # there the sweep's own process shows it
                print(f"error: {message} ({os.path.relpath(files.error)})", file=sys.stderr)
            return
        if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)

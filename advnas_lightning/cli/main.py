"""The command line ``advnas``, which is ``python -m advnas_lightning`` too.

Nothing here imports PyTorch, so that a wrong line is answered at once. :mod:`advnas_lightning.cli.job` does.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from importlib import import_module

import hydra
from omegaconf import DictConfig

from advnas_lightning.cli.answering import signal_of
from advnas_lightning.cli.commands import COMMANDS
from advnas_lightning.cli.config import CONFIG_PATH
from advnas_lightning.cli.errors import fail, hydra_raises
from advnas_lightning.cli.guard import guarded
from advnas_lightning.cli.help import help_text
from advnas_lightning.cli.options import HELP
from advnas_lightning.cli.process import lightning_logs_alone


def quote_cells(argument: str) -> str:
    """Put NAS-Bench-201's cells in quotes, because Hydra's grammar does not allow their ``~`` without quotes.

    Example:
        >>> quote_cells("strategy.genotype=|none~0|,|skip_connect~0|")
        'strategy.genotype="|none~0|","|skip_connect~0|"'
    """
    return re.sub(r"(?<=[=,])\|[^,'\"]*(?=,|$)", r'"\g<0>"', argument)


def main() -> None:
    """Run the command line.

    Raises:
        SystemExit: With a status other than 0, after one line that says what is wrong; with 130 after Ctrl-C.
    """
    sys.argv[1:] = map(quote_cells, sys.argv[1:])
    arguments = sys.argv[1:]
    try:
        _answer(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads this, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:  # a training, or a sweep, has said how it goes on
        print("error: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _answer(arguments: list[str]) -> None:
    if arguments and arguments[0] in COMMANDS:
        import_module(COMMANDS[arguments[0]].module).main(arguments[1:])
    elif "--version" in arguments:
        from advnas_lightning import __version__

        print(f"advnas-lightning {__version__}")
    elif HELP & set(arguments):
        print(help_text())
    else:
        _run(arguments)


def _run(arguments: list[str]) -> None:
    from advnas_lightning.cli.sweeps import interruptible

    # argparse does not take settings on both sides of a flag
    sys.argv[1:] = sorted(arguments, key=lambda each: each not in ("-m", "--multirun"))
    try:
        with guarded(), hydra_raises(), interruptible():
            _main()
    except SystemExit as end:
        if signal_of(end) == signal.SIGINT:
            raise KeyboardInterrupt from end
        raise
    except Exception as error:
        fail(error, arguments)


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="config")
def _main(config: DictConfig) -> float | None:
    with lightning_logs_alone():
        from advnas_lightning.cli.job import job
    return job(config)

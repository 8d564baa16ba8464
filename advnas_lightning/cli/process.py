"""Settings of a run's process: few messages, memory that is kept, and an end when another process has died."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import shlex
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig

PROCESS_DIED = "a process of this run has died: go on with the run's hydra.run.dir=… and ckpt_path=last"
COMMAND = "advnas"
TELLING = ("task", "experiment", "preset")  # overrides that a later line has to repeat
NO_SCRIPTS = ("__main__.py", "_submit.py")  # how Python names a package that runs, and what runs submitit's jobs
PACKAGE = Path(__file__).parents[1]
FIRST_RANK_VARIABLE = "ADVNAS_LIGHTNING_FIRST_RANK"  # tells the processes that Lightning starts the first one's id


@contextmanager
def lightning_logs_alone() -> Iterator[None]:
    """A context for the first import of Lightning, after which its messages are not handed to Hydra's log as well.

    Example:
        >>> with lightning_logs_alone():
        ...     logging.getLogger().handlers
        []
    """
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        yield
    finally:
        root.handlers = handlers


def quiet(*, says_where_it_is: bool = True) -> None:
    """Silence Lightning's messages on hardware and loaders, which the user of a ready-made run cannot change.

    Messages of this package stay. They go through Lightning's logger, so that one process of several prints them.

    Args:
        says_where_it_is: Whether the run has an output of its own. A job that a sweep shows gives warnings alone.
    """
    logger = logging.getLogger("lightning.pytorch")
    if not says_where_it_is:
        logger.setLevel(max(logger.level, logging.WARNING))
    for handler in logger.handlers:
        handler.addFilter(_is_of_interest)
    warnings.filterwarnings("ignore", module="lightning")


def _is_of_interest(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or Path(record.pathname).is_relative_to(PACKAGE)


def go_on_line(arguments: Sequence[str], settings: HydraConf | DictConfig, *, is_job: bool = True) -> str:
    """What to type to go on with the run or the sweep of this command line, quoted for a POSIX shell.

    Args:
        arguments: The command line, the program's name included.
        settings: Hydra's part of the configuration.
        is_job: Whether this may be the process of a job, which has another command line than its sweep.

    Example:
        >>> from omegaconf import OmegaConf
        >>> settings = OmegaConf.create({"mode": "RUN", "run": {"dir": "my runs/1"}})
        >>> print(go_on_line(["advnas_lightning", "seed=1", "ckpt_path=null"], settings).partition(" -m ")[2])
        advnas_lightning seed=1 'hydra.run.dir="my runs/1"' ckpt_path=last
    """
    is_sweep = settings.mode in (RunMode.MULTIRUN, RunMode.MULTIRUN.name)
    key, folder = ("sweep", settings.sweep.dir) if is_sweep else ("run", settings.run.dir)
    target = [f"hydra.{key}.dir={quoted(folder)}"]
    if is_sweep and is_job and not settings.launcher._target_.endswith(".BasicLauncher"):
        return f"the same line and {shlex.join(target)}"  # which the process of a job does not know
    kept = [each for each in arguments[1:] if not re.match(rf"[+~]*(ckpt_path|hydra\.{key}\.dir)\b", each)]
    return shlex.join([*program(arguments), *kept, *target, *([] if is_sweep else ["ckpt_path=last"])])


def quoted(value: str) -> str:
    """A value of an override, in quotes if Hydra's grammar needs them.

    Example:
        >>> quoted("runs/1"), quoted("my runs/1")
        ('runs/1', '"my runs/1"')
    """
    return value if re.fullmatch(r"[\w./+-]+", value) else str(QuotedString(value, Quote.double).with_quotes())


def program(arguments: Sequence[str]) -> list[str]:
    """What to type before the arguments to run the program of a command line again.

    Args:
        arguments: The command line, the program's name included.

    Example:
        >>> program(["no/such/folder/advnas", "seed=1"])[-1].rpartition("/")[2]
        'advnas'
    """
    name = arguments[0]
    if Path(name).name == COMMAND:
        return [COMMAND if _same(shutil.which(COMMAND), name) else name]
    python = "python" if _same(shutil.which("python"), sys.executable) else sys.executable
    is_script = Path(name).is_file() and Path(name).name not in NO_SCRIPTS
    return [python, name] if is_script else [python, "-m", __name__.partition(".")[0]]


def own_settings(sources: Iterable[Any]) -> list[str]:
    """What a command line said of a folder with settings of one's own, without which its choices are not known.

    Args:
        sources: Hydra's list of where its settings come from.

    Example:
        >>> own_settings([{"provider": "main", "path": "conf"}, {"provider": "command-line", "path": "my_conf"}])
        ['--config-dir', 'my_conf']
    """
    paths = [os.path.relpath(each["path"]) for each in sources if each["provider"] == "command-line"]
    return [word for path in paths for word in ("--config-dir", path)]


def line_to_train(overrides: Iterable[str], sources: Iterable[Any], genotype: str, *settings: str) -> str:
    """What to type to train a found architecture as the line was that has searched it.

    Args:
        overrides: The overrides of that line.
        sources: Hydra's list of where its settings come from.
        genotype: The folder of the run, or a file of an architecture.
        settings: Further settings.

    Example:
        >>> line = line_to_train(["task=ptb", "seed=1"], [], "my run", "select=ranked")
        >>> print(line.partition("strategy=fixed")[2])
         'strategy.genotype="my run"' select=ranked task=ptb
    """
    kept = [each for each in overrides if re.match(rf"[+~]*({'|'.join(TELLING)})\b", each)]
    line = [*program(sys.argv), *own_settings(sources), "strategy=fixed", f"strategy.genotype={quoted(genotype)}"]
    return shlex.join([*line, *settings, *kept])


def _same(one: str | None, other: str) -> bool:
    return one is not None and Path(one).exists() and Path(other).exists() and Path(one).samefile(other)


def keep_memory() -> None:
    """Let the C library keep freed memory for the next step.

    By default glibc returns the memory of a finished backward pass to the system. The next step asks for it again, and
    the system clears every page of it first. On a CPU this can make an architecture step slower than a weight step.
    """
    allocator = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if allocator is not None:
        trim_threshold, mmap_threshold = -1, -3  # glibc's malloc.h
        allocator(mmap_threshold, 2**30)
        allocator(trim_threshold, -1)  # -1 means never


def end_with_first_rank() -> None:
    """End this process soon after the first one, which has started it, has died.

    Lightning ends the first process when another one has died. Without this function the reverse can take half an hour:
    the others wait so long for a dead first process if none has sent anything yet, or if a GPU waits for all of them.
    """
    if not HydraConfig.get().job.name.startswith("train_ddp_process_"):  # as Lightning names those that it starts
        os.environ[FIRST_RANK_VARIABLE] = str(os.getpid())
        return

    def watch() -> None:
        while os.getppid() == int(os.environ[FIRST_RANK_VARIABLE]):
            time.sleep(1)
        time.sleep(10)  # by then a finished run has ended by itself, and a failed one has printed its error
        print(f"error: {PROCESS_DIED}", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def lost_process(error: RuntimeError) -> str | None:
    """One line on an error that the death of another process has caused; ``None`` for other errors.

    Example:
        >>> lost_process(RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:1] Read error: Connection reset."))
        "a process of this run has died (Read error: Connection reset): go on with the run's hydra.run.dir=… and \
ckpt_path=last"
        >>> lost_process(RuntimeError("shapes do not match"))
    """
    import torch  # here, since the command line answers a wrong line without it

    message = str(error)
    if not isinstance(error, torch.distributed.DistError) and "/gloo/" not in message:  # whose errors have no class
        return None
    reason = re.sub(r"^\[\S*\] ", "", message).split(". ")[0].splitlines()[0].rstrip(".")
    return PROCESS_DIED.replace("died", f"died ({reason})")

"""One line on each error that a user can mend, with what was probably meant."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from advnas_lightning.cli.checks import closest, missing_extra, suggestion
from advnas_lightning.cli.commands import COMMANDS
from advnas_lightning.cli.config import CONFIG_PATH
from advnas_lightning.cli.process import lost_process
from advnas_lightning.refine.packages import storage_error
from advnas_lightning.runs import flatten
from advnas_lightning.texts import plain

# A wrong key, value, path or file raises one of these errors. HYDRA_FULL_ERROR=1 shows the traceback.
USER_ERRORS = (FloatingPointError, InstantiationException, OmegaConfBaseException, OSError, TypeError, ValueError)
TRACEBACK = "HYDRA_FULL_ERROR"
OURS = "ADVNAS_LIGHTNING_RAISES"  # tells the processes that Lightning starts that the user has not asked for tracebacks
TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
HELP_HINT = "see advnas --help"
NO_GPU = re.compile(r"No supported gpu backend found|No CUDA-?(capable)? ?device|CUDA unknown error")
NO_MODULE = re.compile(r"No module named '(\w+)")
ARE_YOU_SURE = re.compile(r" Are you sure that module '[^']*' is installed\?")  # Hydra's


def explain(error: BaseException) -> str | None:
    """One line on an error that the user can mend; ``None`` for an error that is a mistake in the code.

    Example:
        >>> explain(FileNotFoundError("there is no checkpoint last.ckpt"))
        'there is no checkpoint last.ckpt'
        >>> explain(IndexError("list index out of range"))
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if not isinstance(error, USER_ERRORS) and "MisconfigurationException" not in kinds:  # Lightning's
        return lost_process(error) if isinstance(error, RuntimeError) else None
    # Hydra wraps the error of a constructor. The last line of Hydra's own message names the key.
    is_wrapped = isinstance(error, InstantiationException)
    message = str((error.__cause__ if is_wrapped else None) or error).strip().replace("\n", " ")
    key = str(error).strip().splitlines()[-1] if is_wrapped else ""
    if NO_GPU.search(message):
        message = f"PyTorch finds no GPU here: use trainer=cpu ({message})"
    if (match := NO_MODULE.search(message)) and _is_in_this_folder(match[1]):
        hint = f"{match[1]} is in this folder: type PYTHONPATH=. before advnas, or python -m advnas_lightning"
        message = f"{ARE_YOU_SURE.sub('', message)}: {hint}"
    return plain(message + (f" ({key})" if key.startswith("full_key") else ""))


def explain_line(error: Exception, arguments: Sequence[str]) -> str | None:
    """One line on why a command line has no configuration; ``None`` for an error that is a mistake in the code.

    Args:
        error: What Hydra has raised.
        arguments: The command line, without the program.
    """
    text, reason = str(error), storage_error(error)
    if reason is not None:
        storage = next((each for each in arguments if "sweeper.storage=" in each), "hydra.sweeper.storage")
        return plain(f"{storage}: Optuna cannot read or write it ({reason}): give another one, or move the file away")
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match[1], arguments)
    if match := re.search(r"Could not find '([^']+)'", text):
        return _unknown_choice(match[1], arguments)
    if match := re.search(r"Multiple values for (\S+)\. To override", text):
        added = next((each for each in arguments if each.startswith(f"+{match[1]}=")), None)
        if added is not None:
            return f"{added}: {match[1]} has a choice already: did you mean {added.removeprefix('+')}?"
    if "Config group override must be" in text:
        return _no_choice(arguments, text)
    if match := re.search(r"Error merging override (\S+)", text):
        wanted = re.search(r"converted to (\w+)", str(error.__cause__))
        hint = f"give {TYPES.get(wanted[1], wanted[1])}" if wanted else str(error.__cause__).splitlines()[0]
        return f"{match[1]}: {hint}"
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, text)
    return explain(error) if not isinstance(error, HydraException) else plain(text.strip().replace("\n", " "))


def fail(error: Exception, arguments: Sequence[str]) -> NoReturn:
    """End the program, with one line on an error that the user can mend, and with the traceback of another one.

    Args:
        error: The error.
        arguments: The command line, without the program.
    """
    line = None if wants_traceback() else explain_line(error, arguments)
    if line is None:
        traceback.print_exception(error)
    else:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(1)


@contextmanager
def hydra_raises() -> Iterator[None]:
    """A context in which Hydra raises its errors, in the place of printing them in words of its own.

    Example:
        >>> with hydra_raises():
        ...     os.environ["HYDRA_FULL_ERROR"]
        '1'
    """
    global _wants_traceback
    before = os.environ.get(TRACEBACK)
    _wants_traceback = before == "1" and OURS not in os.environ
    os.environ[TRACEBACK] = "1"
    if not _wants_traceback:
        os.environ[OURS] = "1"
    try:
        yield
    finally:
        os.environ.pop(OURS, None)
        if before is None:
            del os.environ[TRACEBACK]
        else:
            os.environ[TRACEBACK] = before


_wants_traceback = False


def wants_traceback() -> bool:
    """Whether the user has asked for the whole traceback of an error.

    Example:
        >>> wants_traceback()
        False
    """
    return _wants_traceback


@dataclass(frozen=True)
class _Known:
    """What a command line could have said: the groups with their choices, and the settings by dotted key."""

    groups: dict[str, list[str]]
    choices: dict[str, str]
    keys: list[str]


def _known(arguments: Sequence[str]) -> _Known:
    """What is known with the groups that the line chooses rightly."""
    own = [Path(each) for flag, each in pairwise(arguments) if flag in ("--config-dir", "-cd")]
    GlobalHydra.instance().clear()  # the command is about to end
    package = CONFIG_PATH.removeprefix("pkg://")
    start = initialize_config_module if CONFIG_PATH.startswith("pkg://") else initialize_config_dir
    with start(package, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        groups = {}
        for group in (*loader.get_group_options("", ObjectType.GROUP), "task/training"):
            theirs = {path.stem for folder in own for path in (folder / group).glob("*.yaml")}
            groups[group] = sorted({*loader.get_group_options(group), *theirs} - {"signature"})
        searched = [f"hydra.searchpath=[{','.join(f'file://{folder.absolute()}' for folder in own)}]"] if own else []
        chosen = [each for each in arguments if each.partition("=")[0] in groups and "," not in each]
        while True:
            try:
                config = compose("config", [*searched, *chosen], return_hydra_config=True)
                break
            except (HydraException, OmegaConfBaseException):
                if not chosen:
                    raise
                chosen.pop()
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    choices = {str(group): str(choice) for group, choice in config.hydra.runtime.choices.items()}
    return _Known(groups, choices, [key for key, _ in flatten(content)])


def _unknown_key(key: str, arguments: Sequence[str]) -> str:
    typed = next((each for each in arguments if each.lstrip("+~").partition("=")[0] == key), key)
    equals, value = typed.lstrip("+~").partition("=")[1:]
    known = _known(arguments)
    if key in known.groups:
        return f"{typed}: no chosen group has {key}: choose one that has, such as {key.rpartition('/')[0]}=cifar10"
    folder, _, name = key.rpartition(".")
    endings = [other for other in known.keys if other.endswith(f".{name}") and not other.startswith("hydra.")]
    parents = {".".join(other.split(".")[:count]) for other in known.keys for count in range(1, other.count(".") + 1)}
    beside = {other for other in {*known.keys, *parents} if other.rpartition(".")[0] == folder}
    meant = endings or closest(key, sorted({*beside, *([] if folder else known.groups)}))
    meant = meant or closest(key, [other for other in known.keys if not other.startswith("hydra.")])
    hint = f"did you mean {' or '.join(f'{each}{equals}{value}' for each in meant[:3])}?" if meant else HELP_HINT
    place = f" of {folder}={known.choices[folder]}" if folder in known.choices else ""
    return f"{typed}: {key} is no setting{place}: {hint}"


def _unknown_choice(path: str, arguments: Sequence[str]) -> str:
    group, _, choice = path.rpartition("/")
    extra = missing_extra(group, choice)
    options = _known(arguments).groups.get(group, [])
    return extra or f"{group}={choice} is unknown: {suggestion(choice, options) if options else HELP_HINT}"


def _no_choice(arguments: Sequence[str], text: str) -> str:
    """The message about a group that was set to something else than a name, such as null."""
    groups = _known([]).groups
    for each in arguments:
        group, _, value = each.lstrip("+").partition("=")
        if group in groups and value not in groups[group]:
            return f"{each}: {group} is a group with the choices {', '.join(groups[group])}"
    return plain(text)


def _is_in_this_folder(module: str) -> bool:
    """Whether the current folder has a module, and Python does not look there."""
    here = Path(f"{module}.py").is_file() or any(Path(module).glob("*.py"))
    return here and not {"", str(Path.cwd())}.intersection(sys.path)


def _unreadable(override: str, text: str) -> str:
    if "=" not in override:
        return f"{override} is neither a command nor a setting NAME=VALUE: {suggestion(override, list(COMMANDS))}"
    return plain(f"{override} cannot be read ({text.splitlines()[0]}): put the value in quotes")

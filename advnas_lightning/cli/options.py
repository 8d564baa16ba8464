"""The options KEY=VALUE of the commands beside a run, which are read before anything that takes long to import."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from advnas_lightning.texts import plain
from advnas_lightning.validate import check_bool, check_int, check_positive

HELP = frozenset({"--help", "-h", "help"})
COST_KINDS = ("params", "macs", "latency", "memory")  # the keys of cost.UNITS, which needs PyTorch
# Further meters of candidates, by the functions that measure them, with their units.
MORE_KINDS = {
    "onnx_latency": (
        "advnas_lightning.export.onnx_latency",
        "milliseconds of a forward pass of the batch in onnxruntime, without what is beside the edges",
    )
}
RUN = "RUN"  # the name of an option that may be given by its value alone


class Option(NamedTuple):
    """An option of a command.

    Attributes:
        default: Its value if it is not given.
        value: What stands for its value in the help.
        meaning: What it does.
        check: A function of the option's name and value. It returns the value as the command takes it, or raises an
            error that names it. ``None`` is not checked where it is the default.

    Example:
        >>> Option(200, "N", "the number of draws").default
        200
    """

    default: Any
    value: str
    meaning: str
    check: Callable[[str, Any], Any] | None = None


def at_least(least: int) -> Callable[[str, Any], int]:
    """A check that takes a whole number of at least ``least``.

    Example:
        >>> at_least(2)("draws", 1)
        Traceback (most recent call last):
            ...
        ValueError: draws=1 must be a whole number of at least 2
    """
    return partial(check_int, least=least)


def existing_file(name: str, value: Any) -> str:
    """A check that takes the path of a file, or of the folder that has it.

    Raises:
        FileNotFoundError: There is no such file.

    Example:
        >>> existing_file("costs", "nowhere.json")
        Traceback (most recent call last):
            ...
        FileNotFoundError: costs=nowhere.json: there is no such file
    """
    path = str(value)
    if not Path(path).exists():
        raise FileNotFoundError(f"{name}={plain(path)}: there is no such file")
    return path


def file_to_write(name: str, value: Any) -> Path:
    """A check that takes the path of a file in a folder that is there.

    Raises:
        ValueError: It is a folder, or its folder is not there.

    Example:
        >>> file_to_write("output", "nowhere/costs.json")
        Traceback (most recent call last):
            ...
        ValueError: output=nowhere/costs.json: give the path of a file, in a folder that is there
    """
    path = Path(str(value))
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{name}={plain(str(path))}: give the path of a file, in a folder that is there")
    return path


# What several commands have.
SHARED = {
    "RUN": Option(None, "RUN", "the folder of a run, or a checkpoint in it"),
    "costs": Option(None, "FILE", "a file of costs, such as another machine's costs.json", existing_file),
    "trust": Option(False, "true", "make whatever the run's configuration names, such as a task of your own; without"
                    " it only this package's classes and PyTorch's optimizers are made", check_bool),
}  # fmt: skip


def help_page(usage: str, about: str, examples: str, options: Mapping[str, Option]) -> str:
    """What ``--help`` of a command prints.

    Args:
        usage: The form of the command.
        about: What the command does.
        examples: Some command lines, one in each line.
        options: The options by name.

    Example:
        >>> print(help_page("advnas wait N=…", "Waits.", "  advnas wait", {"N": Option(3, "NUMBER", "the seconds")}))
        usage: advnas wait N=…
        <BLANKLINE>
        Waits.
        <BLANKLINE>
        examples:
          advnas wait
        <BLANKLINE>
        options:
          N=NUMBER              the seconds (default: 3)
          --help                print this
    """
    lines = [f"usage: {usage}", "", *textwrap.wrap(about, 98), "", "examples:", examples.rstrip("\n"), "", "options:"]
    for name, option in options.items():
        meaning = option.meaning
        if option.default not in (None, False):
            meaning += f" (default: {'true' if option.default is True else option.default})"
        first, *others = textwrap.wrap(meaning, 74)
        left = RUN if name == RUN else f"{name}={option.value}"
        lines += [f"  {left:<21} {first}"] if len(left) <= 21 else [f"  {left}", f"{'':<24}{first}"]
        lines += [f"{'':<24}{line}" for line in others]
    return "\n".join([*lines, f"  {'--help':<21} print this"])


def cost_budgets(name: str, value: Any) -> dict[str, float]:
    """A check that takes budgets by the kind of cost, which hold together.

    Raises:
        ValueError: It has no kinds, or a budget is no finite number above 0.

    Example:
        >>> cost_budgets("cost_budget", {"macs": 20000000})
        {'macs': 20000000}
    """
    if not isinstance(value, dict) or not value:
        raise ValueError(f'{name}={plain(str(value))}: give the kinds too, as in {name}="{{macs: 20e6}}"')
    return {str(kind): check_positive(f"{name}: {kind}", each) for kind, each in value.items()}


def read_options(arguments: Sequence[str], known: Mapping[str, Option], *, command: str = "") -> dict[str, Any]:
    """Read and check options of the form KEY=VALUE, as in the rest of the package.

    Args:
        arguments: The arguments of the command line.
        known: The options that there are. If there is one of the name ``RUN``, an argument without ``=`` is its value.
        command: The command, such as ``advnas rank``, if it needs a run.

    Returns:
        The value of every option, as its check returns it.

    Raises:
        OSError: A file that an option names is not there.
        ValueError: If a key is unknown, if it has no value, as where a variable of the shell is empty, if a value
            cannot be read or is invalid, or if the command needs a run and has none.

    Example:
        >>> options = {"RUN": Option(None, "RUN", "the run"), "draws": Option(200, "N", "the number of draws")}
        >>> read_options(["outputs/toy", "draws=3"], options)
        {'RUN': 'outputs/toy', 'draws': 3}
        >>> read_options(["draw=3"], options)
        Traceback (most recent call last):
            ...
        ValueError: draw=3 is unknown: did you mean draws=3?
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    options = {name: option.default for name, option in known.items()}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        is_option = (key in known and key != RUN) or key.startswith("-")
        if RUN in known and not is_option and (not equals or Path(argument).exists()):
            if options[RUN] is not None:
                raise ValueError(f"{plain(argument)}: one run is looked at, and {plain(options[RUN])} is given already")
            options[RUN] = argument
            continue
        if key not in known or key == RUN or not value:
            raise ValueError(_unknown(key, equals, value, known))
        try:
            read: Any = OmegaConf.to_container(OmegaConf.from_dotlist([argument]))
        except (OmegaConfBaseException, YAMLError) as error:
            reason = plain(" ".join(str(error).split()))
            raise ValueError(f"{plain(argument)} cannot be read: {reason}") from None
        options[key] = read[key]
    if command and options[RUN] is None:
        raise ValueError(f"give the folder of a run: {command} RUN ({command} --help explains the options)")
    for name, option in known.items():
        if option.check is not None and not (options[name] is None and option.default is None):
            options[name] = option.check(name, options[name])
    return options


def _unknown(key: str, equals: str, value: str, known: Mapping[str, Option]) -> str:
    """The message about an option that there is not."""
    if key in known and key != RUN:
        return f"{key} has no value: give {key}={known[key].value}, or leave it out"
    shown = plain(f"{key}{equals}{value}")
    names = [name for name in known if name != RUN]
    meant = get_close_matches(key.lstrip("-").replace("-", "_"), names, n=1, cutoff=0.6)
    if meant:
        return f"{shown} is unknown: did you mean {meant[0]}={plain(value) if equals else known[meant[0]].value}?"
    return f"{shown} is unknown: give {', '.join(f'{name}=…' for name in names)}"

"""The formats in which a found network is written, and what they need; importing PyTorch would take long."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from advnas_lightning.texts import plain

__all__ = ["FORMATS", "WEIGHTS", "Format", "check_formats", "format_of", "missing_extra"]


class Format(NamedTuple):
    """A format of exported networks, which the ending of a file says.

    Attributes:
        suffix: The ending of its files.
        meaning: What it is.
        beside: The endings of the files that it may have beside its own one.

    Example:
        >>> FORMATS["onnx"].suffix
        '.onnx'
    """

    suffix: str
    meaning: str
    beside: tuple[str, ...] = ()


WEIGHTS = ".pt"  # the ending of the file that has the weights of source
FORMATS = {
    "onnx": Format(".onnx", "ONNX, for onnxruntime and other runtimes", (".onnx.data",)),
    "pt2": Format(".pt2", "an exported program of torch.export"),
    "torchscript": Format(".torchscript", "a trace of TorchScript, which PyTorch has deprecated"),
    "source": Format(".py", "readable Python source, with its weights in a file beside it", (WEIGHTS,)),
}
MODULES = {"onnx": ("onnx", "onnxruntime", "onnxscript")}  # of the extra of that name


def check_formats(name: str, given: Any) -> list[str]:
    """The formats that were asked for.

    Args:
        name: What was given them, for the message.
        given: One format, or several: in a sequence, or with commas.

    Raises:
        ValueError: One is unknown.

    Example:
        >>> check_formats("export", "onnx,pt2")
        ['onnx', 'pt2']
        >>> check_formats("export", "onyx")
        Traceback (most recent call last):
            ...
        ValueError: export=onyx is unknown: did you mean onnx?
    """
    names = given.split(",") if isinstance(given, str) else list(given) if isinstance(given, Sequence) else [given]
    names = [str(each).strip() for each in names]
    for each in names:
        if each not in FORMATS:
            close = get_close_matches(each, FORMATS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"use {', '.join(FORMATS)}"
            raise ValueError(f"{name}={plain(each)} is unknown: {hint}")
    return list(dict.fromkeys(names))


def missing_extra(formats: Sequence[str]) -> str | None:
    """What to install before a network is written in these formats, or ``None`` if all that they need is there.

    Example:
        >>> missing_extra(["pt2", "torchscript"])
    """
    for name in formats:
        absent = [module for module in MODULES.get(name, ()) if find_spec(module) is None]
        if absent:
            return f'{name} needs an extra ({absent[0]} is missing): pip install "advnas-lightning[{name}]"'
    return None


def format_of(path: str | Path) -> str:
    """The format of a file, by the ending of its name.

    Raises:
        ValueError: No format has this ending.

    Example:
        >>> format_of("net.onnx"), format_of("net.pt2")
        ('onnx', 'pt2')
    """
    for name, each in FORMATS.items():
        if Path(path).suffix == each.suffix:
            return name
    endings = ", ".join(f"{each.suffix} ({name})" for name, each in FORMATS.items())
    raise ValueError(f"{plain(str(path))}: the ending says the format: use {endings}")

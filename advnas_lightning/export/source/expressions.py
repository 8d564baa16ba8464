"""The modules of a network as expressions that make them."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Container, Iterator, Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from advnas_lightning.export.source.classes import Definitions, is_ours
from advnas_lightning.export.source.values import Names, literal

__all__ = ["Expressions"]

WIDE = 100  # characters of an expression in one line
SMALL = 64  # numbers of a tensor that are written out


class Expressions:
    """Writes modules as expressions. What a module has beside them is left out, and noted.

    Args:
        names: Gets what must be imported.
        definitions: Gets this package's own classes.
        ran: The ids of the modules that the network calls. One that it does not call, and that has no state, such as a
            metric, is left out.

    Attributes:
        assembles: Whether some expression calls ``assemble``.
        ties: Statements that let parts of the network ``model`` be one.
        left_out: What no expression stands for.

    Example:
        >>> names = Names()
        >>> expressions = Expressions(names, Definitions(names, bool), set())
        >>> expressions.of(nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU()), "")
        'nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU())'
    """

    def __init__(self, names: Names, definitions: Definitions, ran: Container[int]) -> None:
        self._names, self._definitions, self._ran = names, definitions, ran
        self.assembles = False
        self.ties: list[str] = []
        self.left_out: list[str] = []
        self._places: dict[int, str] = {}  # the first place of a module or parameter by its id

    def of(self, module: nn.Module, place: str) -> str:
        """The expression of a module.

        Args:
            module: The module.
            place: Its name in the network.

        Raises:
            ValueError: Its class cannot be imported.
        """
        if id(module) in self._places:
            self._tie(place, self._places[id(module)])
            return "nn.Identity()"
        self._places[id(module)] = place
        kind = _plain_kind(type(module))
        self._names.lines.add("from torch import nn")
        if kind in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
            return self._of_container(kind, module, place)
        if kind.__module__.partition(".")[0] == "torch":
            text = self._constructor(kind, module)
            if text is not None:
                self._note_parameters(module, place)
                return text
        return self._assembled(kind, module, place)

    def _of_container(self, kind: type, module: nn.Module, place: str) -> str:
        children = {name: self.of(child, _joined(place, name)) for name, child in _children(module)}
        called = str(self._names.of(kind))
        if list(children) == [str(number) for number in range(len(children))]:
            if kind is nn.Sequential:
                return _call(called, list(children.values()))
            return _call(called, [_call("", list(children.values()), "[]")])
        return _call(
            called, [_call("", [f"{literal(name, self._names)}: {text}" for name, text in children.items()], "{}")]
        )

    def _constructor(self, kind: type, module: nn.Module) -> str | None:
        """The shortest call of a constructor of PyTorch that makes an equal module, if there is one."""
        of_rnn = issubclass(kind, nn.RNNBase) and kind is not nn.RNNBase  # which takes anything, and hands it on
        try:
            parameters = list(inspect.signature(nn.RNNBase if of_rnn else kind).parameters.values())[of_rnn:]
        except (TypeError, ValueError):
            return None
        wanted = _described(module, self._names)

        def makes_it(arguments: Mapping[str, Any]) -> bool:
            try:
                with torch.device("meta"):
                    return bool(_described(kind(**arguments), self._names) == wanted)
            except Exception:  # of whatever kind: then it is no such call
                return False

        given: dict[str, Any] = {}
        for parameter in parameters:
            if parameter.name not in ("device", "dtype") and hasattr(module, parameter.name):
                value = getattr(module, parameter.name)
                is_flag = isinstance(value, Tensor) or parameter.name == "bias"
                value = value is not None and value is not False if is_flag else value
                if literal(value, self._names) is not None:
                    given[parameter.name] = value
        # A constructor may refuse an argument that its class has as an attribute, as that of nn.GRU does.
        tries = [given, *({key: each for key, each in given.items() if key != name} for name in given)]
        found = next(filter(makes_it, tries), None)
        if found is None:
            return None
        given = found
        for name, value in list(given.items()):
            shorter = {key: each for key, each in given.items() if key != name}
            if makes_it(shorter):
                given = shorter
            elif type(value) is tuple and len(set(value)) == 1 and makes_it({**given, name: value[0]}):
                given[name] = value[0]
        needed = [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]
        arguments = [
            text if name in needed and list(given)[: len(needed)] == needed else f"{name}={text}"
            for name, value in given.items()
            if (text := literal(value, self._names)) is not None
        ]
        return _call(str(self._names.of(kind)), arguments)

    def _assembled(self, kind: type, module: nn.Module, place: str) -> str:
        """A call of ``assemble`` with all that the module has."""
        name = self._definitions.of_class(kind) if is_ours(kind) else self._names.of(kind)
        if name is None:
            raise ValueError(
                f"{kind.__qualname__} of {kind.__module__} cannot be imported by name, and the source needs it: move it"
                " to the top of a module, or export a part without it (part=)"
            )
        self.assembles = True
        base = LightningModule if issubclass(kind, LightningModule) else nn.Module
        parts = {}
        for key, value in _own_attributes(module, base):
            text = literal(value, self._names)
            if text is None:
                self.left_out.append(f"{_joined(place, key)}, a {type(value).__name__}")
            else:
                parts[key] = text
        for key, tensor in _tensors(module):
            parts[key] = self._of_tensor(tensor, module, key, _joined(place, key))
        for key, child in _children(module):
            if child.state_dict() or any(id(each) in self._ran for each in child.modules()):
                parts[key] = self.of(child, _joined(place, key))
        listed = [f"{key}={text}" for key, text in parts.items() if key.isidentifier()]
        others = [f"{literal(key, self._names)}: {text}" for key, text in parts.items() if not key.isidentifier()]
        listed += [f"**{_call('', others, '{}')}"] if others else []
        return _call("assemble", [name, str(self._names.of(base)), *listed])

    def _of_tensor(self, tensor: Tensor | None, module: nn.Module, key: str, place: str) -> str:
        self._names.lines.add("import torch")
        if tensor is None:
            return "None"
        if id(tensor) in self._places:
            self._tie(place, self._places[id(tensor)])
            return "None"
        self._places[id(tensor)] = place
        shape = ", ".join(map(str, tensor.shape)) or "()"
        dtype = "" if tensor.dtype is torch.float32 else f", dtype={tensor.dtype}"
        if isinstance(tensor, nn.Parameter):
            fixed = "" if tensor.requires_grad else ", requires_grad=False"
            return f"nn.Parameter(torch.empty({shape}{dtype}){fixed})"
        if key in module.state_dict(keep_vars=True):
            return f"nn.Buffer(torch.empty({shape}{dtype}))"
        if tensor.numel() > SMALL:
            self.left_out.append(f"{place}, a tensor that is not in the state_dict")
        values = tensor.tolist() if tensor.numel() <= SMALL else None
        made = (
            f"torch.tensor({values!r}, dtype={tensor.dtype})" if values is not None else f"torch.zeros({shape}{dtype})"
        )
        return f"nn.Buffer({made}, persistent=False)"

    def _note_parameters(self, module: nn.Module, place: str) -> None:
        for name, tensor in module.named_parameters(remove_duplicate=False):
            if id(tensor) in self._places:
                self._tie(_joined(place, name), self._places[id(tensor)])
            self._places.setdefault(id(tensor), _joined(place, name))

    def _tie(self, place: str, first: str) -> None:
        self.ties.append(f"{_path(place)} = {_path(first)}")


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _path(place: str) -> str:
    """What to write for a place in the network ``model``."""
    *above, last = place.split(".")
    owner = "model" if not above else f"model.get_submodule({'.'.join(above)!r})"
    return f"{owner}.{last}" if last.isidentifier() else f"{owner}[{last if last.isdigit() else repr(last)}]"


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children, each at every place that it has."""
    for name, child in module.named_modules(remove_duplicate=False):
        if name and "." not in name:
            yield name, child


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor | None]]:
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    yield from module.named_buffers(recurse=False, remove_duplicate=False)


def _own_attributes(module: nn.Module, base: type[nn.Module]) -> Iterator[tuple[str, Any]]:
    """The attributes that the module's own class has set."""
    usual = vars(base())
    for name, value in vars(module).items():
        if name not in usual and not name.startswith(("_hparams", "_log_hyperparams")):
            yield name, value


def _plain_kind(kind: type) -> type:
    """The first class above that does more than to have another constructor."""
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] == "torch":
            return kind if base is nn.Module else base
        if any(inspect.isfunction(value) and name != "__init__" for name, value in vars(base).items()):
            return kind
    return kind


def _described(module: nn.Module, names: Names) -> Any:
    """All that tells two modules of one class apart, except for the values of their weights."""
    own = {name: literal(value, names) for name, value in _own_attributes(module, nn.Module)}
    tensors = {name: (tensor.shape, tensor.dtype) for name, tensor in module.state_dict(keep_vars=True).items()}
    children = {name: _described(child, names) for name, child in _children(module)}
    return own, tensors, children


def _call(called: str, arguments: list[str], brackets: str = "()") -> str:
    """A call, or a list or dict, in one line if it is short."""
    line = f"{called}{brackets[0]}{', '.join(arguments)}{brackets[1]}"
    if len(line) <= WIDE and "\n" not in line:
        return line
    if len(arguments) == 1 and not called.startswith("assemble") and "\n" in arguments[0] and arguments[0][0] in "[{":
        return f"{called}{brackets[0]}{arguments[0]}{brackets[1]}"
    inner = textwrap.indent(",\n".join(arguments), "    ")
    return f"{called}{brackets[0]}\n{inner},\n{brackets[1]}"

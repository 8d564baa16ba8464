"""Writes a network as Python source, with its weights in a file beside it, and runs both in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import CodeType

import torch
from torch import Tensor, nn

from advnas_lightning.export.call import Call
from advnas_lightning.export.formats import WEIGHTS
from advnas_lightning.export.source.classes import Definitions
from advnas_lightning.export.source.expressions import Expressions
from advnas_lightning.export.source.values import Names, literal

__all__ = ["FreshProcess", "source_of", "write_source"]

HEAD = '''"""A found network. This file needs {needs} alone, and the weights in {weights}.

    from {stem} import network

    model = network("{weights}")  # called with {inputs}
"""

from __future__ import annotations
'''
BUILD = '''
def build():
    """Make the network, without its weights."""
    model = {model}
{ties}    return model


def network(weights):
    """The network with the weights of a file, in evaluation mode."""
    model = build()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()
'''
ASSEMBLE = '''
def assemble(kind, base, /, **parts):
    """A module of a class that is made of these parts, in place of what its constructor makes."""
    module = kind.__new__(kind)
    base.__init__(module)
    for name, part in parts.items():
        setattr(module, name, part)
    return module
'''
RUNNER = """\
import sys
answers, sys.stdout = sys.stdout, sys.stderr  # what an imported module prints is no answer
from importlib.util import module_from_spec, spec_from_file_location
import torch
from torch.utils._pytree import tree_leaves
spec = spec_from_file_location("exported_network", sys.argv[1])
module = module_from_spec(spec)
spec.loader.exec_module(module)
model = module.network(sys.argv[2])
for line in sys.stdin:
    args, kwargs = torch.load(line.strip(), weights_only=False)
    with torch.no_grad():
        leaves = tree_leaves(model(*args, **kwargs))
    torch.save([leaf for leaf in leaves if isinstance(leaf, torch.Tensor)], line.strip())
    print("done", file=answers, flush=True)
"""


def write_source(
    network: nn.Module, call: Call, path: Path, *, dynamic: bool, choices: Mapping[str, str] | None = None
) -> FreshProcess:
    """Write a network as Python source, and its weights into the file with the ending ``.pt`` beside it.

    Args:
        network: The network, in evaluation mode.
        call: How it is called.
        path: The file.
        dynamic: Whether it is meant for batches of any size. The source decides nothing by the size.
        choices: The found candidate of each edge, for the reader.

    Returns:
        A function that calls the network of the file in a fresh process.

    Raises:
        ValueError: A class cannot be imported by name.
    """
    text, left_out, strangers = source_of(network, call, path.stem, choices or {})
    path.write_text(text, encoding="utf-8")
    weights = path.with_suffix(WEIGHTS)
    torch.save(network.state_dict(), weights)
    return FreshProcess(path, weights, left_out, alone=not strangers)


def source_of(network: nn.Module, call: Call, stem: str, choices: Mapping[str, str]) -> tuple[str, list[str], set[str]]:
    """The source of a network.

    Args:
        network: The network.
        call: How it is called.
        stem: The name of the file without its ending.
        choices: The found candidate of each edge.

    Returns:
        The text; what of the network is not in it; and the modules beside PyTorch that it imports.

    Raises:
        ValueError: A class cannot be imported by name.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> text, left_out, strangers = source_of(layer, Call.of(layer, torch.ones(1, 2)), "net", {"edge": "linear"})
        >>> "nn.Linear(2, 3)" in text, left_out, strangers
        (True, [], set())
    """
    modules, codes = _called(network, call)
    names = Names()
    definitions = Definitions(names, lambda function: getattr(function, "__code__", None) in codes)
    expressions = Expressions(names, definitions, modules)
    names.lines.add("import torch")
    model = expressions.of(network, "")
    types = {each.dtype for each in network.state_dict().values() if each.is_floating_point()} - {torch.float32}
    converted = f".to({types.pop()})" if len(types) == 1 else ""
    needs = "PyTorch" if not names.strangers else f"PyTorch and {', '.join(sorted(names.strangers))}"
    inputs = ", ".join(f"{name} {list(each.shape)}" for name, each in call.tensors.items())
    rows = [f"    {literal(edge, names)}: {literal(name, names)}," for edge, name in choices.items()]
    parts = [
        HEAD.format(needs=needs, stem=stem, weights=f"{stem}{WEIGHTS}", inputs=inputs),
        names.text(),
        *(["\n".join(["# The candidate of each edge.", "FOUND = {", *rows, "}", ""])] if rows else []),
        *(f"\n{text}\n" for text in definitions.texts.values()),
        *([ASSEMBLE] if expressions.assembles else []),
        BUILD.format(
            model=f"{_indented(model)}{converted}", ties="".join(f"    {each}\n" for each in expressions.ties)
        ),
    ]
    return "\n".join(parts), expressions.left_out, names.strangers


def _called(network: nn.Module, call: Call) -> tuple[set[int], set[CodeType]]:
    """The ids of the modules that a network calls, and the code of all functions that run then."""
    modules: set[int] = set()
    codes: set[CodeType] = set()
    handles = [each.register_forward_pre_hook(lambda module, _: modules.add(id(module))) for each in network.modules()]
    before = sys.getprofile()
    try:
        sys.setprofile(lambda frame, *_: codes.add(frame.f_code))
        with torch.no_grad():
            call.run(network)
    finally:
        sys.setprofile(before)
        for handle in handles:
            handle.remove()
    return modules, codes


def _indented(text: str) -> str:
    first, *others = text.splitlines()
    return "\n".join([first, *textwrap.indent("\n".join(others), "    ").splitlines()])


class FreshProcess:
    """Calls the network of a source file in a process of its own, which ends with :meth:`close`.

    Args:
        path: The file.
        weights: The file with its weights.
        left_out: What of the network is not in the source, for the message if it fails.
        alone: Whether the process must not import this package.
    """

    def __init__(self, path: Path, weights: Path, left_out: list[str], *, alone: bool) -> None:
        code = f"import sys; sys.modules['advnas_lightning'] = None\n{RUNNER}" if alone else RUNNER
        self._left_out = left_out
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by close
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(weights)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def __call__(self, call: Call) -> list[Tensor]:
        """What the network of the file returns.

        Args:
            call: How it is called.

        Raises:
            ValueError: The process has failed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "call.pt")
            torch.save((call.args, call.kwargs), file)
            try:
                self._process.stdin.write(f"{file}\n")
                self._process.stdin.flush()
                is_done = self._process.stdout.readline() == "done\n"
            except BrokenPipeError:
                is_done = False
            if is_done:
                outputs: list[Tensor] = torch.load(file, weights_only=True)
                return outputs
        self._process.wait()
        self._errors.seek(0)
        said = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        without = f"; the source is without {', '.join(self._left_out[:3])}" if self._left_out else ""
        raise ValueError(f"{said[-1] if said else 'the process has ended'}{without}")

    def close(self) -> None:
        """End the process that runs the file, and wait for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

"""What the README and the documentation show runs: their Python, their files, their commands."""

from __future__ import annotations

import ast
import importlib.util
import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import yaml

from tests.support.pages import ROOT, Block, blocks, check_output, pages
from tests.support.shell import Shell

# Libraries that a page speaks of and that are not installed for the tests. A block that imports one is only compiled.
NOT_INSTALLED = ("onnxscript", "timm", "transformers")
QUICK = ["README.md"]  # whose Python the default tests run; of the other pages they read everything, and run nothing
PAGES = pages()


def check_diff(text: str, page: str) -> None:
    """The lines that a diff removes and adds are in the files of ``examples/``."""
    there = {line.strip() for path in (ROOT / "examples").rglob("*.py") for line in path.read_text().splitlines()}
    lines = [line for line in text.splitlines() if re.match(r"[-+](?!--|\+\+)", line)]
    missing = [line for line in lines if line[1:].strip() and line[1:].strip() not in there]
    assert not missing, f"{page}: {missing} are in no file of examples/"


def is_importable(code: ast.Module) -> bool:
    names = {alias.name for node in ast.walk(code) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(code) if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in names}
    return all(importlib.util.find_spec(name) for name in tops & set(NOT_INSTALLED))


class Page:
    """Runs the blocks of one page in order: Python in one namespace, files and commands in one folder."""

    def __init__(self, name: str, folder: Path, patch: pytest.MonkeyPatch, *, python: bool, commands: bool) -> None:
        self.name, self.folder, self.python = name, folder, python
        self.shell = Shell(folder, patch, really=commands)
        self.names: dict[str, object] = {"__name__": "page"}
        self.printed: dict[int, str] = {}  # by the line on which the output is shown, if it is

    def run(self, block: Block) -> None:
        where = f"{self.name}, line {block.line}"
        if block.path is not None:
            path = self.folder / block.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        if block.language == "python":
            code = compile(block.text, where, "exec", ast.PyCF_ONLY_AST)
            if self.python and is_importable(code):
                with redirect_stdout(io.StringIO()) as printed:
                    exec(compile(block.text, where, "exec"), self.names)
                self.printed[block.end + 2] = printed.getvalue()
        elif block.language == "text" and block.line in self.printed:
            check_output(block.text, self.printed[block.line], where)
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "diff":
            check_diff(block.text, where)
        for words in block.commands:
            self.shell.run(words)


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_known_and_every_command_composes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(name, tmp_path, monkeypatch, python=name in QUICK, commands=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_every_block_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(name, tmp_path, monkeypatch, python=True, commands=True)


def _run(name: str, folder: Path, patch: pytest.MonkeyPatch, *, python: bool, commands: bool) -> None:
    patch.chdir(folder)
    patch.syspath_prepend(folder)
    patch.setenv("MPLBACKEND", "Agg")
    before = set(sys.modules)
    page = Page(name, folder, patch, python=python, commands=commands)
    try:
        for block in blocks(PAGES[name].read_text()):
            page.run(block)
    finally:
        for module in set(sys.modules) - before:  # the page's own files
            if str(folder) in str(getattr(sys.modules[module], "__file__", "")):
                del sys.modules[module]

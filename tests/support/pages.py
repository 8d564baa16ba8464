"""The code blocks of Markdown pages and notebooks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CODE = ("python", "bash", "yaml", "diff", "text", "console", "theirs")
# MyST's directives that hold Markdown, in which there may be more blocks.
HOLDERS = {
    "admonition", "caution", "dropdown", "glossary", "grid", "grid-item", "grid-item-card", "important", "list-table",
    "note", "seealso", "tab-item", "tab-set", "tip", "warning",
}  # fmt: skip
OTHERS = {"eval-rst", "figure", "image", "include", "literalinclude", "toctree"}  # those that hold none


@dataclass(frozen=True)
class Block:
    """A block of code on a page.

    Attributes:
        language: One of ``CODE``; ``theirs`` is code of another library, which nothing runs.
        text: What is in it.
        line: The page's line on which it begins.
    """

    language: str
    text: str
    line: int

    @property
    def end(self) -> int:
        """The page's line on which it ends."""
        return self.line + self.text.count("\n") + 1

    @property
    def path(self) -> str | None:
        """The file that the block is, if its first line names one."""
        named = re.match(r"# (\S+\.(?:py|yaml))\n", self.text)
        return named[1] if named and self.language in ("python", "yaml") else None

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a shell block, split into words."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [words for line in lines for words in _commands(line)] if self.language in ("bash", "console") else []


def _commands(line: str) -> Iterator[list[str]]:
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), "&&"]:
        if word != "&&":
            words.append(word)
        elif words:
            yield words
            words = []


def blocks(text: str, line: int = 1) -> list[Block]:
    """The blocks of a page in order.

    Raises:
        ValueError: A block is of a language or a directive that is not known.
    """
    found = []
    colons = re.sub(r"^:{3,}", lambda fence: "`" * (len(fence[0]) + 3), text, flags=re.MULTILINE)  # MyST's other fences
    for token in MarkdownIt().parse(colons):
        if token.type != "fence":
            continue
        here = line + (token.map or [0])[0]
        language = token.info.split()[0] if token.info else ""
        name = language.strip("{}")
        if language == "{code-block}" and ":class: theirs" in token.content:
            found.append(Block("theirs", token.content, here))
        elif language.startswith("{") and name in HOLDERS:
            found += blocks(token.content, here + 1)
        elif language in CODE:
            found.append(Block(language, token.content, here))
        elif not (language.startswith("{") and name in OTHERS):
            raise ValueError(f"line {here}: a block of {language or 'no language'!r}: use {', '.join(CODE)}")
    return found


def pages() -> dict[str, Path]:
    """Every Markdown page by its path from the repository's root."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples/README.md", *DOCS.rglob("*.md")]
    return {str(path.relative_to(ROOT)): path for path in sorted(found) if "_build" not in path.parts}


def words_of(text: str) -> list[str]:
    """The lines of an output without its numbers and frames, which differ from machine to machine."""
    plain = re.sub(r"\d[\d.e+-]*", "#", re.sub(r"[─-╿]", " ", text))
    return [" ".join(line.split()) for line in plain.splitlines() if line.strip()]


def check_output(shown: str, printed: str, where: str) -> None:
    """Each line that a page shows as output was printed. An ellipsis stands for whatever there is."""
    lines = words_of(printed)
    missing = [line for line in words_of(shown) if line not in lines and "…" not in line]
    assert not missing, f"{where}: the code above does not print {missing}, but\n{printed}"

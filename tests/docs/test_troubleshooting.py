"""The messages that the page on troubleshooting explains are those of the code."""

from __future__ import annotations

import ast
import re

from tests.support.pages import DOCS, ROOT

PAGE = (DOCS / "guides" / "troubleshooting.md").read_text()
QUOTED = re.findall(r"^### `+ ?(.*?) ?`+$", PAGE, re.MULTILINE)


def texts(tree: ast.AST) -> set[str]:
    """Every text of a module. ``…`` stands for what is only known when it runs."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            found.add("".join(map(str, parts)))
    return found


def test_each_quoted_message_is_one_of_the_code() -> None:
    known = {text for path in (ROOT / "advnas_lightning").rglob("*.py") for text in texts(ast.parse(path.read_text()))}
    missing = [quoted for quoted in QUOTED if not any(quoted in text for text in known)]
    assert not missing
    assert len(QUOTED) >= 30
    assert len(set(QUOTED)) == len(QUOTED)


def test_each_message_has_a_reason_and_a_fix() -> None:
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        heading, _, rest = section.partition("\n")
        assert re.search(r"^Why\n: .+", rest, re.MULTILINE), heading
        assert re.search(r"^What to do\n: .+", rest, re.MULTILINE), heading


def test_what_is_only_known_when_it_runs_is_left_out() -> None:
    assert texts(ast.parse("""raise ValueError(f"edge {edge!r} has no" " candidate")""")) >= {"edge … has no candidate"}

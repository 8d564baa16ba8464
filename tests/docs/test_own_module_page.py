"""The tutorial on one's own module shows how the two examples differ."""

from __future__ import annotations

import difflib

from tests.support.pages import DOCS, ROOT, blocks

PAGE = blocks((DOCS / "tutorials/own_module.md").read_text())


def test_the_diff_is_that_of_the_examples() -> None:
    before, after = (
        (ROOT / "examples" / name).read_text().splitlines() for name in ("classifier.py", "searchable_classifier.py")
    )
    changes = difflib.unified_diff(before, after, n=0, lineterm="")
    real = [line for line in list(changes)[2:] if not line.startswith("@@")]
    (shown,) = [each for each in PAGE if each.language == "diff"]
    assert [line for line in shown.text.splitlines() if line != "+"] == [line for line in real if line != "+"]

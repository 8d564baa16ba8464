"""How pages are read for the tests of what they show."""

from __future__ import annotations

import pytest

from tests.support.pages import Block, blocks, check_output

PAGE = """# A page

```bash
advnas \\
    seed=1 && advnas report RUN  # twice
NAME=1 advnas "a b"
```

:::{note}
Here is

```python
# my/file.py
x = 1
```
:::

````{tab-set}
```{tab-item} Theirs
~~~{code-block} python
:class: theirs
import nni
~~~
```
````

```console
$ advnas
what it prints
```
"""


def test_blocks_are_found_in_order_and_within_others() -> None:
    assert [block.language for block in blocks(PAGE)] == ["bash", "python", "theirs", "console"]
    shell, python, theirs, console = blocks(PAGE)
    assert shell.commands == [["advnas", "seed=1"], ["advnas", "report", "RUN"], ["NAME=1", "advnas", "a b"]]
    assert (python.path, python.line, python.commands) == ("my/file.py", 12, [])
    assert (shell.path, theirs.path) == (None, None)
    assert console.commands == [["advnas"]]


@pytest.mark.parametrize("fence", ["```", "```ruby", "```{mermaid}", "```{code-block} python"])
def test_an_unknown_block_is_an_error(fence: str) -> None:
    with pytest.raises(ValueError, match="line 3: a block of"):
        blocks(f"# A page\n\n{fence}\nx\n```\n")


def test_the_path_is_the_first_line_of_a_file() -> None:
    assert Block("yaml", "# conf/a.yaml\nx: 1\n", 1).path == "conf/a.yaml"
    assert Block("python", "x = 1\n# conf/a.py\n", 1).path is None
    assert Block("text", "# conf/a.py\n", 1).path is None


def test_a_block_ends_at_its_fence() -> None:
    first, second = blocks("```python\nx = 1\nprint(x)\n```\n\n```text\n1\n```\n")
    assert (first.line, first.end, second.line, second.end) == (1, 4, 6, 8)


def test_an_output_is_compared_but_for_its_numbers() -> None:
    printed = "act  relu 0.917\n│ found │ relu │\n"
    check_output("act  relu 0.5", printed, "here")
    check_output("found relu\n…", printed, "here")
    with pytest.raises(AssertionError, match="does not print"):
        check_output("act  tanh 0.917", printed, "here")

"""The site builds without a warning, and leaves nothing out that a user would look for."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import advnas_lightning
from advnas_lightning import callbacks, cost, diagnose, objectives, space
from tests.support.pages import DOCS, ROOT, pages

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = {name: path.read_text() for name, path in pages().items()}
NOT_PAGES = ("https://", "http://", "mailto:", "#")


def documents() -> set[str]:
    """The pages of the site, without their endings."""
    found = {*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")}
    return {str(path.relative_to(DOCS).with_suffix("")) for path in found if "_build" not in path.parts}


def in_a_toctree() -> set[str]:
    """The pages that a table of contents names."""
    found = set()
    for path in DOCS.rglob("*.md"):
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", path.read_text(), re.DOTALL):
            entries = [line for line in tree.splitlines() if line and not line.startswith(":")]
            found |= {str((path.parent / entry).relative_to(DOCS)) for entry in entries}
    return found


@pytest.mark.slow
def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    for module in ("sphinx", "furo", "myst_nb", "sphinx_copybutton", "sphinx_design"):
        pytest.importorskip(module)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path / "html")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in built.stderr.splitlines() if line and " INFO " not in line]  # which other packages log
    assert (built.returncode, said) == (0, [])
    html = {path.relative_to(tmp_path / "html").with_suffix("") for path in (tmp_path / "html").rglob("*.html")}
    assert documents() <= {str(path) for path in html}
    page = (tmp_path / "html" / "concepts" / "how_it_works.html").read_text()
    assert "def take(self" in re.sub(r"<[^>]+>", "", page)  # the code is taken from the package
    reference = "".join(path.read_text() for path in (tmp_path / "html" / "reference").glob("*.html"))
    public = {f"advnas_lightning.{name}" for name in advnas_lightning.__all__}
    for module in (callbacks, cost, diagnose, objectives, space):
        public |= {getattr(module, name).__qualname__ for name in module.__all__ if callable(getattr(module, name))}
    missing = [name for name in sorted(public) if f'{name.rpartition(".")[2]}"' not in reference]
    assert missing == []


def test_every_page_is_in_a_table_of_contents() -> None:
    assert documents() - in_a_toctree() == {"index"}
    assert in_a_toctree() <= documents()


@pytest.mark.parametrize("name", PAGES)
def test_links_between_files_lead_somewhere(name: str) -> None:
    prose = re.sub(r"^```.*?^```", "", PAGES[name], flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r"(?:src|srcset)=\"([^\"]+)\"", PAGES[name])
    files = [target.partition("#")[0] for target in targets if not target.startswith(NOT_PAGES)]
    folder = (ROOT / name).parent
    places = [
        DOCS / file[1:] if file.startswith("/") else folder / file for file in files if file
    ]  # as Sphinx reads them
    missing = [place for place in places if not place.exists()]
    assert missing == []


def test_no_page_is_a_stub() -> None:
    assert [name for name, text in PAGES.items() if "being written" in text] == []


def test_every_extra_is_on_the_page_on_installing() -> None:
    extras = set(re.findall(r"^\| `(\w+)` \|", PAGES["docs/install.md"], re.MULTILINE))
    assert PROJECT["optional-dependencies"].keys() <= extras


def test_the_versions_are_those_of_the_project() -> None:
    page = PAGES["docs/install.md"]
    assert PROJECT["requires-python"] == ">=3.11"
    assert "Python 3.11 or later" in page
    bounds = {each.partition(">=")[0]: each.partition(">=")[2] for each in PROJECT["dependencies"]}
    assert f"PyTorch {bounds['torch']} or later" in page
    assert bounds["lightning"].startswith("2.6,!=2.6.2,!=2.6.3,<2.7")
    assert "Lightning 2.6. Lightning 2.6.2 and 2.6.3 are excluded" in page


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()

"""The settings of the documentation: ``sphinx-build -W --keep-going docs docs/_build/html`` builds it offline."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]

project = "advnas-lightning"
author = "the authors of advnas-lightning"
release = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["version"]
version = release
html_title = f"advnas-lightning {release}"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # Google-style docstrings
    "sphinx.ext.viewcode",
    "myst_nb",  # Markdown pages and notebooks
    "sphinx_copybutton",
    "sphinx_design",  # cards and tabs
]
exclude_patterns = ["_build", "README.md"]
nitpicky = True  # a reference that leads nowhere is a warning, and a warning is an error

nitpick_ignore_regex = [  # nothing is downloaded at build time, so names of other libraries lead nowhere
    (r"py:.*", r"(torch|nn|lightning|torchmetrics|omegaconf|collections|pathlib|typing|rich|numpy|matplotlib)\..*"),
    (r"py:.*", r"(Path|Any|AbstractContextManager|Tensor|MisconfigurationException|optional)"),
    (r"py:class", r"([\w.]+\.)?(\w+Factory|\w+Algorithm|Selection|Found|ZeroOpRule|Meter|Data|Run)"),  # names of types
    (r"py:class", r"([\w.]+\.)?(Loss|Sampling|WarmupSizes)"),
    (r"py:class", r"([\w.]+\.)?(NetworkRunner|Ranks|Precision|Trace|MicroBatches)"),  # parts that nobody needs by name
]

# Markdown
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]  # formulas are plain text: MathJax needs a network
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are committed with their outputs; tests/docs runs them

# The API reference
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_use_type_comments = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True

# The look
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["advnas.css"]
html_theme_options = {
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#2a5db0", "color-brand-content": "#2a5db0"},
    "dark_css_variables": {"color-brand-primary": "#8ab4f8", "color-brand-content": "#8ab4f8"},
}
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True


def _skip_fields(app: Any, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Leave out the fields of named tuples, which their docstrings explain already."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", _skip_fields)

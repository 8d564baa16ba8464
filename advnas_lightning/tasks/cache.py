"""The folder in which downloaded data is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """The folder of one data set in the user's cache, ``$XDG_CACHE_HOME/advnas_lightning/<name>``.

    Without that variable it is ``~/.cache/advnas_lightning/<name>``. The folder may not exist yet.

    Args:
        name: The name of the data set.

    Example:
        >>> cache_folder("ptb").name
        'ptb'
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "advnas_lightning" / name

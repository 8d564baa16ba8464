"""The settings that a refinement was begun with, so that it goes on with no others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advnas_lightning.reading import Unreadable, read_json
from advnas_lightning.runs import differences, flatten, write_json

__all__ = ["keep_settings"]

SETTINGS = "settings.json"
FORMAT = 2  # of the folder; in the first one, trainings that were ended early could not go on


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a new refinement, or compare them with those that it was begun with.

    Args:
        folder: The folder of the refinement, which the caller holds.
        settings: What decides the scores, in plain values.

    Raises:
        ValueError: It was begun with other settings, or by another version of this package, or its file is damaged.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> keep_settings(folder, {"rungs": [1, 2]})
        >>> keep_settings(folder, {"rungs": [1, 3]})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: ... was begun with other settings (rungs is [1, 2], not [1, 3]): give these, or another folder
        >>> (folder / "settings.json").write_text('{"rungs": [1, 2]}') > 0  # as the first version left it
        True
        >>> keep_settings(folder, {"rungs": [1, 2]})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: ... is of another version of refine, which cannot go on here: give another folder
    """
    path, settings = folder / SETTINGS, {"format": FORMAT, **settings}
    if not path.exists():
        write_json(path, settings)
        return
    try:
        saved = read_json(path)
    except Unreadable as error:
        raise ValueError(
            f"{path} cannot be read, so that nothing goes on there: {error}; give another folder"
        ) from None
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise ValueError(f"{folder} is of another version of refine, which cannot go on here: give another folder")
    found = differences(dict(flatten(saved)), dict(flatten(settings)))
    if found:
        raise ValueError(f"{folder} was begun with other settings ({'; '.join(found)}): give these, or another folder")

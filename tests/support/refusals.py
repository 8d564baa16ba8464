"""Bad input is refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

REFUSED = (ValueError, MisconfigurationException)


@contextmanager
def one_line(*parts: str) -> Iterator[None]:
    """Expect a refusal in one line that says all of this."""
    with pytest.raises(REFUSED) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message

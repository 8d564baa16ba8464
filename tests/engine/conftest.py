"""Each strategy in turn, of which a few run by default."""

from __future__ import annotations

import pytest

from tests.support.small_search import SAME_ENGINE, STRATEGIES, few


@pytest.fixture(params=few(STRATEGIES))
def name(request: pytest.FixtureRequest) -> str:
    """Each strategy in turn, with each option that matters."""
    return request.param


@pytest.fixture(params=few(each for each in STRATEGIES if each not in SAME_ENGINE))
def engine(request: pytest.FixtureRequest) -> str:
    """Each strategy in turn, with the options that the engine can tell apart."""
    return request.param

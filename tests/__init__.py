"""The tests, whose folders mirror the package's."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it: the operations are too small to share
pytest.register_assert_rewrite("tests.support")

"""What the tests of refinements need."""

from __future__ import annotations

import pytest

from advnas_lightning.refine.options import missing_package

needs_storage = pytest.mark.skipif(missing_package() is not None, reason=str(missing_package()))

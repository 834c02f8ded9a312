from __future__ import annotations

from tests.support.fixtures import _nothing_fails as _nothing_fails
from tests.support.fixtures import codec as codec
from tests.support.fixtures import pytest_generate_tests as pytest_generate_tests
from tests.support.fixtures import streams as streams

from __future__ import annotations

import pytest

from tests.support.certificates import Certificates, make_certificates
from tests.support.fixtures import _nothing_fails as _nothing_fails
from tests.support.fixtures import pytest_generate_tests as pytest_generate_tests
from tests.support.fixtures import streams as streams
from tests.support.websocket import WEBSOCKET_CODECS


@pytest.fixture(params=WEBSOCKET_CODECS)
def codec(request: pytest.FixtureRequest) -> str:
    """Each test of the protocol runs on both codecs."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))

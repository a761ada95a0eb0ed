"""The contract's tests run against the bridge in the server's own process, if they do not say otherwise."""

import pytest


@pytest.fixture
def transport() -> str:
    return "in process"

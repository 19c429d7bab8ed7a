"""What the tests of core share."""

import pytest


@pytest.fixture
def anyio_backend():
    """These tests run on asyncio, as the library does."""
    return "asyncio"

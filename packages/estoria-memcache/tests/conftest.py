"""What the tests of the in-process caches share."""

import pytest


@pytest.fixture
def anyio_backend():
    """These tests run on asyncio, as the library does."""
    return "asyncio"

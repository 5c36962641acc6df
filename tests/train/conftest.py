"""What the tests of training share: a cache of kernels that outlives the run, since building one takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from discod.train.compiler import private_directory


@pytest.fixture(scope="session")
def kernel_cache(pytestconfig: pytest.Config) -> Path:
    """Plans are named by everything they depend on, the engine's source too: an old cache cannot hide a change."""
    assert pytestconfig.cache is not None
    return private_directory(pytestconfig.cache.mkdir("kernels") / "private")

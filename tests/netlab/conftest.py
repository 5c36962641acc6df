from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netlab.lab import Lab, open_lab, why_not


@pytest.fixture(scope="session")
def able() -> None:
    """Skips where namespaces, NAT or traffic control are missing."""
    if why := why_not():
        pytest.skip(why)


@pytest.fixture
def lab(able: None) -> Iterator[Lab]:
    with open_lab() as opened:
        yield opened

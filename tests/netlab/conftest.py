from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netlab.lab import Lab, open_lab, why_not
from tests.netlab.town import Town, open_town


@pytest.fixture(scope="session")
def able() -> None:
    """Skips where namespaces, NAT or traffic control are missing."""
    if why := why_not():
        pytest.skip(why)


@pytest.fixture
def lab(able: None) -> Iterator[Lab]:
    with open_lab() as opened:
        yield opened


@pytest.fixture
def town(able: None) -> Iterator[Town]:
    """A lab with a crew in it, of stand-ins with small vectors."""
    with open_town() as opened:
        yield opened

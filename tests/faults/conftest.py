from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.crew import Crew, open_crew


@pytest.fixture
def crew() -> Iterator[Crew]:
    with open_crew() as opened:
        yield opened


@pytest.fixture
def three(crew: Crew) -> Crew:
    """A signaling node and the homes of three peers; `meet` starts their daemons."""
    crew.open_node()
    for name in "abc":
        crew.add(name)
    return crew

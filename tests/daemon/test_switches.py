"""The two switches of the environment, and what they refuse."""

from __future__ import annotations

import os
import signal

import pytest

from discod.daemon.surroundings import Engine
from discod.daemon.switches import ENGINE, PHASES, STOP, engine_of, stops_of
from discod.errors import BadConfig, Exit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Engine("tinygrad", "CPU")),
        ("stand-in:1000", Engine("stand-in", "CPU", 1000, 0.0)),
        ("stand-in:1000:", Engine("stand-in", "CPU", 1000, 0.0)),
        ("stand-in:33:0.25", Engine("stand-in", "CPU", 33, 0.25)),
    ],
)
def test_the_engine_is_tinygrad_unless_a_stand_in_is_named(text: str, expected: Engine) -> None:
    assert engine_of({ENGINE: text}, "CPU") == expected


def test_the_device_is_handed_on() -> None:
    assert engine_of({}, "CUDA") == Engine(device="CUDA")
    assert engine_of({ENGINE: "stand-in:5"}, "CUDA").device == "CUDA"


@pytest.mark.parametrize(
    "text",
    [
        "tinygrad",
        "standin:5",
        "stand-in",
        "stand-in:",
        "stand-in:many",
        "stand-in:0",
        "stand-in:-5",
        "stand-in:5:slow",
        "stand-in:5:-1",
        "stand-in:5:nan",
        "stand-in:5:inf",
        "stand-in:5:1:2",
    ],
)
def test_another_engine_is_refused_with_its_form(text: str) -> None:
    with pytest.raises(BadConfig) as caught:
        engine_of({ENGINE: text}, "CPU")
    assert caught.value.exit == Exit.BAD_CONFIG
    assert text in caught.value.message
    assert "stand-in:FLOATS" in caught.value.hint


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What was sent to which process, instead of being sent."""
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
    return signals


def test_nobody_stops_unless_it_is_asked_for(stopped: list[tuple[int, int]]) -> None:
    reached = stops_of({})
    for phase in PHASES:
        reached(phase, 1)
    assert stopped == []


@pytest.mark.parametrize("text", ["spent", "spent:"])
def test_the_process_stops_itself_once_at_its_phase(stopped: list[tuple[int, int]], text: str) -> None:
    reached = stops_of({STOP: text})
    for round_number in (1, 2):
        for phase in PHASES:
            reached(phase, round_number)
            assert len(stopped) == int(round_number > 1 or PHASES.index(phase) >= PHASES.index("spent"))
    assert stopped == [(os.getpid(), signal.SIGSTOP)]


def test_a_round_that_is_named_is_the_first_one_to_stop_in(stopped: list[tuple[int, int]]) -> None:
    reached = stops_of({STOP: "adopt:3"})
    for round_number in (1, 2):
        reached("adopt", round_number)
    assert stopped == []
    reached("adopted", 3)
    assert stopped == []
    reached("adopt", 4)  # round 3 was fetched, not made here
    assert len(stopped) == 1


@pytest.mark.parametrize("text", ["sometime", "spent:first", "spent:-1", "spent:1.5", "spent:²", ":3", "SPENT"])
def test_another_phase_or_round_is_refused_with_the_phases(text: str) -> None:
    with pytest.raises(BadConfig) as caught:
        stops_of({STOP: text})
    assert caught.value.exit == Exit.BAD_CONFIG
    assert all(phase in caught.value.hint for phase in PHASES)

"""Global options work before and after the verb, and nowhere after `--`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discod.cli.options import FLAGS, Options, seconds, take
from discod.errors import Exit, UsageError

WORDS = st.lists(st.sampled_from(["status", "mesh", "create", "-o", "x", "--uses", "3"]))


@given(WORDS, st.integers(0, 7), st.sampled_from(sorted(FLAGS)))
def test_flag_works_at_any_place(words: list[str], place: int, flag: str) -> None:
    found, rest = take([*words[:place], flag, *words[place:]], {})
    assert rest == words
    assert getattr(found, FLAGS[flag]) is True


def test_values_may_follow_or_be_joined() -> None:
    assert take(["up", "--home", "h", "--timeout=2m"], {}) == (Options(home="h", timeout=120.0), ["up"])


def test_words_after_two_dashes_are_left_alone() -> None:
    assert take(["data", "add", "--", "--json"], {}) == (Options(), ["data", "add", "--", "--json"])


def test_no_color_comes_from_the_environment() -> None:
    assert take([], {"NO_COLOR": "1"})[0].no_color
    assert not take([], {"NO_COLOR": ""})[0].no_color


@pytest.mark.parametrize("words", [["--home"], ["--home", ""], ["--timeout", "soon"], ["--timeout", "0"]])
def test_impossible_value_is_a_usage_error(words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        take(words, {})
    assert caught.value.exit == Exit.USAGE


@pytest.mark.parametrize(("text", "length"), [("30", 30), ("30s", 30), ("1.5m", 90), ("24h", 86400), ("7d", 604800)])
def test_seconds_reads_units(text: str, length: float) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize("text", ["", "h", "-3s", "nan", "inf", "1e999", "3w", "3 s x"])
def test_seconds_refuses_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="time"):
        seconds(text)

"""The options every verb knows, before or after it: taken out of the arguments before click sees them.

One pass over the words, so a global option works at any depth and no verb repeats it. Words after `--` are left alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from discod.errors import UsageError

FLAGS = {
    "--json": "json",
    "--jsonl": "jsonl",
    "-q": "quiet",
    "--quiet": "quiet",
    "-v": "verbose",
    "--verbose": "verbose",
    "--no-color": "no_color",
    "--no-start": "no_start",
}
VALUES = {"--home": "home", "--timeout": "timeout"}
HELP = (
    ("--json", "One JSON envelope on stdout instead of text."),
    ("--jsonl", "One JSON object per line for verbs that go on (train --follow)."),
    ("-q, --quiet / -v, --verbose", "Say less, say more."),
    ("--no-color", "No colours (also: NO_COLOR, or stdout is no terminal)."),
    ("--home DIR", "Everything but the kernel cache under DIR (also: DISCOD_HOME)."),
    ("--timeout SECONDS", "How long to wait for an answer of the daemon."),
    ("--no-start", "Exit 3 rather than start a daemon."),
)
ANSWER_SECONDS = 30.0  # a control call does no network waits of its own without saying so
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Options(NamedTuple):
    """The global options of one invocation."""

    json: bool = False
    jsonl: bool = False
    quiet: bool = False
    verbose: bool = False
    no_color: bool = False
    no_start: bool = False
    home: str | None = None
    timeout: float = ANSWER_SECONDS


def seconds(text: str, option: str = "a time") -> float:
    """Seconds of "30", "30s", "5m", "24h" or "7d".

    Raises: UsageError if it is none of these, or not positive.
    """
    number, unit = (text, "") if text[-1:].isdigit() else (text[:-1], text[-1:])
    try:
        value = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        raise UsageError(f"{option} cannot be {text!r}", "write seconds, or 30s, 5m, 24h, 7d") from None
    if not 0 < value < float("inf"):
        raise UsageError(f"{option} must be more than nothing, not {text!r}")
    return value


def take(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> tuple[Options, list[str]]:
    """The global options among `words`, and the other words in their order.

    Raises: UsageError for a missing or impossible value.
    """
    found: dict[str, object] = {"no_color": bool(environ.get("NO_COLOR"))}
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            return _options(found), [*rest, word, *queue]
        if word in FLAGS:
            found[FLAGS[word]] = True
        elif name in VALUES:
            if not equals and not queue:
                raise UsageError(f"{name} needs a value", "discod --help")
            found[VALUES[name]] = value if equals else queue.pop(0)
        else:
            rest.append(word)
    return _options(found), rest


def _options(found: dict[str, object]) -> Options:
    if found.get("home") == "":
        raise UsageError("--home needs a directory")
    if "timeout" in found:
        found["timeout"] = seconds(str(found["timeout"]), "--timeout")
    return Options(**found)  # type: ignore[arg-type]  # the two tables name exactly its fields

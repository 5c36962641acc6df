"""The log: stable event names and fields on stderr; for people on a terminal, else one JSON object per line.

No secret is logged on purpose; what looks like one by its name, or like an invite link, is taken out besides.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

SECRET_FIELDS = frozenset({"link", "seed", "secret", "private", "token", "key_pem"})
HIDDEN = "(hidden)"
_LINK = re.compile(r"(discod(?:\+ws)?://[^\s#]*)#\S+")

Fields = MutableMapping[str, Any]


def scrub(logger: Any, method: str, fields: Fields) -> Fields:
    """Take secrets out of an entry: by the field's name, and the fragment of every invite link."""
    for name, value in fields.items():
        if name in SECRET_FIELDS:
            fields[name] = HIDDEN
        elif isinstance(value, str):
            fields[name] = _LINK.sub(rf"\1#{HIDDEN}", value)
    return fields


class _Forward(logging.Handler):
    """What libraries log goes the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        info: Any = record.exc_info if record.exc_info and record.exc_info[0] else None
        log.log(record.levelno, "library.log", logger=record.name, text=record.getMessage(), exc_info=info)


class _Patient:
    """A stream whose failures stop nobody: a full disk, a terminal that is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def set_up(level: str = "info", style: str = "auto", stream: TextIO | None = None) -> None:
    """Configure the process's log. style: auto, console or json."""
    out = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    console = style == "console" or (style == "auto" and out.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            scrub,
            structlog.dev.ConsoleRenderer(colors=out.isatty()) if console else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Patient(out))),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=max(threshold, logging.WARNING), handlers=[_Forward()], force=True)

"""Scheme -> its exchange. `local` has none: it is trained without a daemon's runs."""

from __future__ import annotations

from typing import Any

from discod.daemon.exchange import DecentralizedExchange
from discod.daemon.exchanging import RunExchange
from discod.daemon.fallback import FallbackExchange
from discod.daemon.federated import FederatedExchange
from discod.train.task import TaskSpec

SCHEMES = {"decentralized": DecentralizedExchange, "federated": FederatedExchange}


def make_exchange(*, task: TaskSpec, **around: Any) -> RunExchange:
    """The exchange of a run, by the scheme of its task (a MakeExchange, exchanging.py)."""
    kind = FallbackExchange if task.has_fallback else SCHEMES[task.scheme]
    made: RunExchange = kind(task=task, **around)
    return made

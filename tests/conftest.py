"""What every test shares: how hypothesis draws, where real data lies, and that nothing leaves this machine.

Tiers (pyproject.toml): the default run leaves out `faults` and `lab`; the last line of a run says so.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# What this machine's owner has set for ways out is nothing to the tests, nor to the daemons that they start.
for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
    os.environ.pop(name, None)

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("DISCOD_TEST_DATA", REPOSITORY.parent / "shared" / "data"))

# A failure seen once must be seen again by everyone: the default draws are the same in every run.
# DISCOD_HYPOTHESIS=long draws others, and more of them.
hypothesis.settings.register_profile("default", derandomize=True, deadline=None)
hypothesis.settings.register_profile("long", derandomize=False, deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("DISCOD_HYPOTHESIS", "default"))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Path of a data file that is not part of the repository; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"needs {name} under $DISCOD_TEST_DATA or ../shared/data")
        return path

    return find


def is_local(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a unix socket
    if address[0] in ("", "localhost"):
        return True
    try:
        number = ip_address(address[0].partition("%")[0])
    except ValueError:
        return False  # a name, which something would have to look up
    return number.is_loopback or number.is_unspecified


@pytest.fixture(scope="session", autouse=True)
def loopback_only() -> Iterator[None]:
    """A test that dials beyond this machine fails, whether or not the machine has a network."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        assert is_local(address), f"a test dialled {address}: only loopback is allowed"
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = [tier for tier in ("faults", "lab") if f"not {tier}" in config.getoption("markexpr")]
    if left_out:
        terminalreporter.write_line(f"not run: the tiers {' and '.join(left_out)} (all: python3 run.py test --all)")

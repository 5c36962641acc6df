"""The README's tutorial works as it stands, with three homes on one machine."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator

import pytest

from discod.demo.place import temporary_root
from tests.tutorial import PEERS, Machines, Step, steps, tutorial


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def machines() -> Iterator[Machines]:
    with temporary_root() as root:
        found = Machines(root, f"127.0.0.1:{free_port()}")
        try:
            yield found
        finally:
            found.end()


def test_fences_are_read() -> None:
    text = "```console machine=b stdin=invite\n$ discod join\nshown\n$ ls\n```\n```console\n$ no\n```\n"
    assert steps(text) == [Step("b", frozenset({"stdin=invite"}), ("discod join", "ls"))]


@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("bash") is None, reason="the tutorial's commands are run by bash")
def test_three_machines_by_hand(machines: Machines) -> None:
    for step in tutorial():
        machines.perform(step)
    shown = [json.loads(machines.type(machine, "discod model list --json")) for machine in PEERS]
    hashes = {answer["data"][0]["hash"] for answer in shown}
    assert len(hashes) == 1

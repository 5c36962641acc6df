"""The README's three machines as most machines are: behind NAT boxes of their own, only the meeting point in reach."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator

import pytest

from discod.demo.place import temporary_root
from tests.netlab.lab import Lab
from tests.tutorial import PEERS, REPOSITORY, Machines, tutorial

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400), pytest.mark.xdist_group("lab")]


@pytest.fixture
def machines(lab: Lab) -> Iterator[Machines]:
    """The meeting point has the address that the README gives it."""
    (found,) = re.findall(r"^export SIGNALING=(\S+)$", (REPOSITORY / "README.md").read_text("utf-8"), re.M)
    lab.host("signaling", found.rpartition(":")[0])
    for name in PEERS:
        lab.home(name)
    with temporary_root() as root:
        made = Machines(root, found, lambda name: lab.hosts[name].words)
        try:
            yield made
        finally:
            made.end()


@pytest.mark.skipif(shutil.which("bash") is None, reason="the tutorial's commands are run by bash")
def test_three_machines_behind_nat_train_one_model_through_the_meeting_point(machines: Machines) -> None:
    for step in tutorial():
        machines.perform(step)
    paths = [row.split()[3] for row in machines.shown["a", "discod peers"].splitlines()[1:]]
    assert sorted(paths) == ["relay", "relay", "—"]
    shown = [json.loads(machines.type(machine, "discod model list --json")) for machine in PEERS]
    assert len({answer["data"][0]["hash"] for answer in shown}) == 1

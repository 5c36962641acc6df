"""A disk that fills up while a round is saved: nothing certified is lost, and with room again it goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from discod.store import open_store
from tests.faults.crew import Crew, a_task, open_crew

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120), pytest.mark.xdist_group("faults")]

DISK_MB = 24
STATE_FLOATS = 400_000  # 1.6 MB, more than is left below


@pytest.fixture
def small_disk() -> Iterator[Crew]:
    """Three peers, of which c lives on a disk of its own."""
    with open_crew(f"stand-in:{STATE_FLOATS}:0.1") as crew:
        home = crew.root / "c"
        home.mkdir(mode=0o700)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=700", "discod-test", str(home)],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode:
            pytest.skip(f"a small disk needs the right to mount: {mounted.stderr.strip()}")
        try:
            crew.open_node()
            for name in "abc":
                crew.add(name)
            yield crew
        finally:
            subprocess.run(["umount", "--lazy", str(home)], check=True)


def fill(path: Path, left: int) -> None:
    """Take all room on the disk of `path` but so many bytes, also what has become free since the last time."""
    with path.open("ab", buffering=0) as file, suppress(OSError):  # the daemon may have been quicker
        room = os.statvfs(path.parent)
        if (more := room.f_bavail * room.f_bsize - left) > 0:
            os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, more)


@pytest.mark.parametrize("left", [0, 400_000])
def test_a_full_disk_is_said_and_costs_nothing_that_was_certified(small_disk: Crew, left: int) -> None:
    task, c = a_task(rounds=32), small_disk.peers["c"]
    small_disk.meet()
    small_disk.train(task)
    small_disk.reach(3, "a", "b", "c")
    filler = c.home / "filler"

    def has_failed() -> bool:
        fill(filler, left)
        return bool(c.all("run.failed"))

    small_disk.until(has_failed, "c says that it cannot go on")
    (failed,) = c.all("run.failed")
    assert failed["error"]["code"] == "disk-full"
    assert "no space left" in failed["error"]["message"]
    status = c.client.get("/v1/status")
    assert (status["state"], status["runs"][0]["state"]) == ("degraded", "failed")
    small_disk.reach(small_disk.peers["a"].round + 2, "a", "b")
    with closing(open_store(c.paths.state)) as store:
        base = store.load_base(task.id)
    assert base is not None
    assert base.header.round == c.round

    newcomer = small_disk.add("d")
    newcomer.start()
    newcomer.join(small_disk.invite(1))
    small_disk.until(lambda: c.all("peer.connected", peer="d"), "c is linked with whom it has no room to note")

    filler.unlink()
    c.process.end()
    c.start()
    c.accept(task)
    newcomer.accept(task)
    small_disk.until(lambda: any("c" in event["roster"] for event in c.all("round.finished")), "c takes part again")
    small_disk.finish()

"""The lab is what it says: NAT boxes hide, weather drops and limits, and nothing is left, whatever ended the test."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.crew import status_of
from tests.netlab.lab import Host, Lab, namespaces, sweep

pytestmark = [pytest.mark.lab, pytest.mark.timeout(60), pytest.mark.xdist_group("lab")]

PORT = 7340
SERVER = f"""
import socket
with socket.create_server(("", {PORT})) as door:
    print("open", flush=True)
    while True:
        stream, where = door.accept()
        count = 0
        while data := stream.recv(1 << 16):
            count += len(data)
        print(where[0], count, flush=True)
"""
CLIENT = "import socket, sys\nwith socket.create_connection((sys.argv[1], {port}), 1.0) as s: s.sendall(bytes({size}))"
PACKETS = 200
COUNTER = f"""
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
    door.bind(("", {PORT}))
    print("open", flush=True)
    count = 0
    while door.recv(10) != b"last":
        count += 1
    print(count, flush=True)
"""
SPRAY = f"""
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    for _ in range({PACKETS}):
        s.sendto(b"more", (sys.argv[1], {PORT}))
"""
KILLED = """
import os, signal, subprocess
from tests.netlab.lab import open_lab
with open_lab() as lab:
    host = lab.home("left")
    inside = subprocess.Popen([*host.words, "sh", "-c", "echo here; exec sleep 1000"], stdout=subprocess.PIPE)
    inside.stdout.readline()
    print(os.getpid(), inside.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def python(host: Host, program: str, *words: str) -> list[str]:
    return [*host.words, sys.executable, "-I", "-c", program, *words]


@contextmanager
def serving(host: Host, program: str = SERVER) -> Iterator[subprocess.Popen[str]]:
    """What `host` prints who dials it, and how many bytes came."""
    with subprocess.Popen(python(host, program), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert heard(server) == "open"
            yield server
        finally:
            server.kill()


def heard(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    return server.stdout.readline().strip()


def dials(host: Host, address: str, size: int = 1, port: int = PORT) -> bool:
    words = python(host, CLIENT.format(port=port, size=size), address)
    return subprocess.run(words, check=False, stderr=subprocess.DEVNULL).returncode == 0


def test_a_home_dials_out_by_its_box_and_cannot_be_dialled(lab: Lab) -> None:
    street, home, other = lab.host("street-side"), lab.home("a"), lab.home("b")
    with serving(street) as server, serving(home), serving(other):
        assert dials(home, street.address)
        assert heard(server) == f"{home.address} 1"
        assert not dials(street, home.address)
        assert not dials(other, home.address)


def test_an_open_port_is_handed_through_and_no_other(lab: Lab) -> None:
    home, other = lab.home("a", open_port=PORT), lab.home("b")
    with serving(home) as server:
        assert dials(other, home.address)
        assert heard(server) == f"{other.address} 1"
        assert not dials(other, home.address, port=PORT + 1)


def test_a_cut_parts_sides_and_silence_parts_all_until_it_clears(lab: Lab) -> None:
    a, b, c = lab.host("a"), lab.host("b"), lab.home("c")
    with serving(a), serving(b):
        lab.part(["a", "c"], ["b"])
        assert dials(c, a.address)
        assert not dials(c, b.address)
        assert not dials(a, b.address)
        lab.clear()
        assert dials(c, b.address)
        lab.silence()
        assert not dials(c, a.address)
        lab.clear()
        assert dials(c, a.address)


def test_a_limited_line_is_no_faster_than_its_rate_either_way(lab: Lab) -> None:
    slow, fast = lab.home("slow"), lab.host("fast")
    lab.limit(slow, 8.0)
    size = 500_000
    with serving(fast) as there, serving(slow):
        began = time.monotonic()
        assert dials(slow, fast.address, size)
        assert heard(there) == f"{slow.address} {size}"
        assert time.monotonic() - began > 0.4  # 0.5 s, less what the bucket holds at once


def test_so_many_packets_are_lost_as_was_asked_for(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    with serving(b, COUNTER) as server:
        lab.lose(500)
        subprocess.run(python(a, SPRAY, b.address), check=True)
        lab.lose(0)
        subprocess.run(python(a, SPRAY.replace("more", "last"), b.address), check=True)
        assert 65 <= int(heard(server)) <= 135  # five standard deviations: outside once in a million runs


def test_what_a_killed_test_left_goes_with_the_next_lab(able: None) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, check=False)
    owner, inside = map(int, killed.stdout.split())
    assert len([pid for _, pid in namespaces() if pid == owner]) == 3
    assert status_of(inside)
    sweep()
    assert owner not in {pid for _, pid in namespaces()}
    deadline = time.monotonic() + 10
    while status_of(inside) not in ("", "Z"):  # dying; its parent, which would be told, is dead
        assert time.monotonic() < deadline

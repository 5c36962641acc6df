"""`bench soak`: faults that are a function of the seed, a judgement that notices, a wire that does what it says."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import _verdict as verdict
from benchmarks._faults import DISABLING, KINDS, LASTS_SECONDS, LONG_AFTER_SECONDS, Fault, schedule, steps
from benchmarks._verdict import HANG_SECONDS, Ended, Told
from benchmarks._wire import LISTENS, WHOLE, Way, Wire
from benchmarks.soak import Outcome, Seen, judge, wrong
from discod.p2p.link import IDLE_SECONDS

REPOSITORY = Path(__file__).resolve().parents[1]
SEEDS = range(50)
FIVE = ("a", "b", "c", "d", "e")


# The faults


def test_the_schedule_is_a_function_of_the_seed() -> None:
    assert schedule(7, 600, FIVE) == schedule(7, 600, FIVE)
    assert len({tuple(schedule(seed, 60, FIVE)) for seed in SEEDS}) == len(SEEDS)
    first = schedule(7, 60, FIVE)[:2]
    assert [(f.kind, f.victims, round(f.begins, 2), round(f.ends, 2)) for f in first] == PINNED


PINNED = [("partition", ("a", "b"), 3.0, 6.55), ("stop", ("b",), 11.86, 16.63)]


@pytest.mark.parametrize("minutes", [1, 2, 10])
def test_at_least_five_faults_a_minute_and_all_end_in_time(minutes: int) -> None:
    for seed in SEEDS:
        faults = schedule(seed, 60 * minutes, FIVE)
        assert len(faults) >= 5 * minutes
        assert all(0 < fault.begins < fault.ends <= 60 * minutes for fault in faults)


def test_some_are_longer_than_a_link_lives_without_a_byte_but_none_at_first() -> None:
    for seed in SEEDS:
        faults = schedule(seed, 600, FIVE)
        long = [fault for fault in faults if fault.ends - fault.begins > IDLE_SECONDS]
        assert long
        assert all(fault.begins > LONG_AFTER_SECONDS and fault.kind in ("stop", "partition") for fault in long)
        short = [fault for fault in faults if fault not in long]
        assert all(fault.ends - fault.begins <= LASTS_SECONDS[fault.kind][1] + 1e-9 for fault in short)


def test_every_five_faults_are_one_of_each_kind() -> None:
    for seed in SEEDS:
        kinds = [fault.kind for fault in schedule(seed, 600, FIVE)]
        assert all(set(kinds[i : i + 5]) == set(KINDS) for i in range(0, len(kinds) - 4, 5))


def test_none_begins_before_the_last_of_its_kind_has_ended() -> None:
    for seed in SEEDS:
        faults = schedule(seed, 600, FIVE)
        for kind in KINDS:
            those = [fault for fault in faults if fault.kind == kind]
            assert all(before.ends <= after.begins for before, after in pairwise(those))


@pytest.mark.parametrize("peers", ["abcd", "abcde", "abcdefgh"])
def test_all_but_one_are_alive_and_enough_are_together(peers: str) -> None:
    for seed in SEEDS:
        disabled: list[Fault] = []
        for _, begins, fault in steps(schedule(seed, 600, peers)):
            if fault.kind in DISABLING:
                disabled.append(fault) if begins else disabled.remove(fault)
            assert len(disabled) <= 1
            assert len(peers) - sum(len(each.victims) for each in disabled) >= 3
        assert disabled == []


def test_nobody_is_killed_or_stopped_together_with_another() -> None:
    faults = [fault for seed in SEEDS for fault in schedule(seed, 600, FIVE)]
    assert {len(fault.victims) for fault in faults if fault.kind in ("kill", "stop", "slow")} == {1}
    assert {len(fault.victims) for fault in faults if fault.kind == "partition"} == {1, 2}
    assert {len(fault.victims) for fault in faults if fault.kind == "node"} == {0}


# The judgement


def story(*lines: str) -> list[Told]:
    """ "a 3 x 12": at 12 s a told state x of round 3."""
    words = [line.split() for line in lines]
    return [Told(float(when), peer, int(number), state) for peer, number, state, when in words]


PARENTS = {"x1": "x0", "x2": "x1", "x3": "x2", "y2": "x1", "y3": "y2"}
MAIN = verdict.path_to("x3", PARENTS)
CALM = story("a 1 x1 10", "b 1 x1 10", "a 2 x2 20", "b 2 x2 21", "a 3 x3 30", "b 3 x3 31")


def test_a_calm_story_is_right() -> None:
    assert {"x0", "x1", "x2", "x3"} == MAIN
    assert verdict.hangs(CALM, "ab", 5, 40) == []
    assert verdict.divergent(CALM, MAIN) == verdict.lost(CALM, MAIN) == set()
    assert verdict.forks(CALM, MAIN) == []


def test_a_peer_that_tells_nothing_for_too_long_hangs_whatever_the_others_do() -> None:
    told = story(f"a 1 x1 {HANG_SECONDS / 2}", f"a 2 x2 {HANG_SECONDS}", f"b 1 x1 {HANG_SECONDS * 0.9}")
    assert verdict.hangs(told, "ab", 0, HANG_SECONDS * 1.8) == []
    (hang,) = verdict.hangs(told, "ab", 0, HANG_SECONDS * 1.95)
    assert hang.startswith("b told")
    assert len(verdict.hangs([], "ab", 0, HANG_SECONDS * 1.95)) == 2


def test_a_fork_that_is_left_in_time_is_settled() -> None:
    told = [*CALM, *story("c 2 y2 22", f"c 3 x3 {22 + HANG_SECONDS}")]
    assert [fork.state for fork in verdict.forks(told, MAIN)] == ["y2"]
    assert verdict.divergent(told, MAIN) == verdict.lost(told, MAIN) == set()


@pytest.mark.parametrize("after", [(), (f"c 3 x3 {23 + HANG_SECONDS}",), ("c 3 y3 40",), ("d 3 x3 30",)])
def test_a_fork_that_is_not_left_in_time_is_divergent(after: tuple[str, ...]) -> None:
    assert 2 in verdict.divergent([*CALM, *story("c 2 y2 22", *after)], MAIN)


def test_a_round_that_nobody_holds_is_lost() -> None:
    told = [*CALM, *story("c 4 x4 35")]
    assert verdict.lost(told, MAIN) == {4}


def test_a_disk_without_what_was_told_has_forgotten() -> None:
    (last,) = story("a 2 x2 20")
    assert not verdict.forgotten(last, "x2", PARENTS)
    assert not verdict.forgotten(last, "x3", PARENTS)  # it adopted another one and was killed before it said so
    assert verdict.forgotten(last, "x1", PARENTS)
    assert verdict.forgotten(last, "", PARENTS)
    assert not verdict.forgotten(None, "", PARENTS)


def test_recovery_lasts_until_all_victims_hold_a_new_round() -> None:
    ended = [Ended(15, ("a",)), Ended(15, ("a", "b")), Ended(25, ("b",)), Ended(30.5, ("b",)), Ended(32, ("a",))]
    assert list(verdict.recoveries(ended, CALM, MAIN)) == [5, 6, 6, None, None]


def test_a_state_off_the_main_path_is_no_recovery() -> None:
    assert list(verdict.recoveries([Ended(25, ("c",))], [*CALM, *story("c 3 y3 28")], MAIN)) == [None]


def test_the_common_state_is_the_highest_that_all_have_told_since() -> None:
    common = verdict.common_state(CALM, "ab", after=5, above=0)
    assert common is not None
    assert common.state == "x3"
    assert verdict.common_state(CALM, "ab", after=5, above=3) is None
    assert verdict.common_state(CALM, "ab", after=30.5, above=0) is None
    assert verdict.common_state(CALM, "abc", after=5, above=0) is None


def test_the_tip_is_where_most_stood_last() -> None:
    tip = verdict.tip_of([*CALM, *story("c 9 z9 33")])
    assert tip is not None
    assert tip.state == "x3"


def test_two_halves_that_never_meet_again_are_divergent() -> None:
    told = [*CALM, *story("c 2 y2 20", "c 3 y3 31")]
    outcome = judge(Seen(began=0, whole=32, over=60, ended=[Ended(15, ("c",))], parents=PARENTS), told, ["a", "b", "c"])
    assert outcome.divergent == {2, 3}
    assert outcome.recoveries == [None]
    assert len(wrong(outcome, 0.1)) == 3


def test_everything_that_is_wrong_is_said() -> None:
    told = story("a 1 x1 10", "a 2 x2 20", "a 3 x3 24")
    right = Outcome(50, 50, [1.0] * 50, [], set(), [], told[:1], [])
    assert wrong(right, 10) == []
    bad = Outcome(49, 49, [1.0, None], ["a hangs"], {2}, ["round 9: lost"], [], ["b ended"])
    assert len(wrong(bad, 10)) == 7


# The wire


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as opened:
        yield opened


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def dial(wire: Wire, line: str, seconds: float = 20.0) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", wire.port), timeout=seconds)
    connection.sendall(f"{line}\n".encode())
    return connection


def to_echo(wire: Wire, echo: int, who: str = "a") -> socket.socket:
    connection = dial(wire, f"{who} 127.0.0.1:{echo}")
    assert connection.recv(1) == b"+"
    return connection


def test_bytes_pass_through(wire: Wire, echo: int) -> None:
    data = bytes(range(256)) * 4000
    with to_echo(wire, echo) as connection:
        threading.Thread(target=connection.sendall, args=(data,)).start()
        got = b""
        while len(got) < len(data):
            got += connection.recv(1 << 16)
    assert got == data


def test_a_dead_way_keeps_the_bytes_until_it_is_whole_and_others_are_not_cut(wire: Wire, echo: int) -> None:
    with dial(wire, f"b {LISTENS}:{echo}") as said:
        assert said.recv(1) == b"+"
    with to_echo(wire, echo) as a, to_echo(wire, echo, "c") as c:
        wire.set([("b", "a")], Way(dead=True))
        a.sendall(b"kept")
        c.sendall(b"at once")
        assert c.recv(100) == b"at once"
        with dial(wire, f"a 127.0.0.1:{echo}") as another:
            a.setblocking(False)
            with pytest.raises(BlockingIOError):
                a.recv(100)
            a.settimeout(20)
            wire.set([("a", "b")], WHOLE)
            assert a.recv(100) == b"kept"
            assert another.recv(1) == b"+"


def test_a_way_that_resets_ends_what_is_open_and_refuses_the_rest(wire: Wire, echo: int) -> None:
    wire.name(echo, "b")
    with to_echo(wire, echo) as a:
        wire.set([("a", "b")], Way(dead=True, resets=True))
        assert ended(a)
        with dial(wire, f"a 127.0.0.1:{echo}") as another:
            assert ended(another)


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_slow_way_delivers_late(wire: Wire, echo: int) -> None:
    wire.name(echo, "b")
    with to_echo(wire, echo) as a:
        wire.set([("a", "b")], Way(delay=0.1, rate=50_000))
        began = time.monotonic()
        a.sendall(bytes(5000))
        left = 5000
        while left:
            left -= len(a.recv(left))
        assert time.monotonic() - began >= 0.4  # 0.1 s of each, both ways; never earlier, however busy the machine


def test_nonsense_is_hung_up_on(wire: Wire) -> None:
    for line in ("", "a", "a b", "a b:c", "x" * 500):
        with dial(wire, line) as connection:
            assert ended(connection)


# The arguments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "0"], "the number of minutes must be 0.5 to 1440, not '0'"),
        (["--peers", "3"], "the number of peers must be 4 to 16, not '3'"),
        (["--aggregator", "median"], "invalid choice: 'median'"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments: list[str], said: str) -> None:
    command = [sys.executable, "benchmarks/soak.py", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert done.stdout == ""

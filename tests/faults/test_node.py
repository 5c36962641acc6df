"""The signaling node: killed, it is missed by nobody who is linked; as a relay, it passes nothing on in clear."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from discod import ring
from discod.train.datasets import SAMPLE_PREFIX, load
from discod.train.standin import apply_batch
from discod.train.task import TaskSpec
from tests.faults import tapped_node, walled_peer
from tests.faults.crew import FLOATS, Crew, a_task, open_crew

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120), pytest.mark.xdist_group("faults")]

WINDOW = 32  # bytes of an update that must not be found; any run so long holds a block of half the size


def test_rounds_go_on_without_the_node_and_a_member_joins_when_it_is_back(three: Crew) -> None:
    task = a_task(rounds=20)
    peers = list(three.peers.values())
    three.meet()
    three.train(task)
    three.reach(2, "a", "b", "c")
    assert three.node is not None
    three.node.end()
    three.until(lambda: all(peer.all("signaling.lost") for peer in peers), "everybody misses the node")
    assert peers[0].client.get("/v1/status")["state"] == "degraded"
    three.reach(max(peer.round for peer in peers) + 3, "a", "b", "c")
    link = three.invite(1)  # made while nobody can use it
    three.open_node(three.url.rpartition("/")[2])
    three.until(lambda: all(len(peer.all("signaling.connected")) == 2 for peer in peers), "everybody is back")
    assert peers[0].client.get("/v1/status")["state"] == "healthy"
    newcomer = three.add("d")
    newcomer.start()
    newcomer.join(link)
    three.until(lambda: all(three.sees_all(peer) for peer in three.peers.values()), "d is linked with all")
    newcomer.accept(task)
    three.finish()
    assert not any(peer.all("peer.disconnected") for peer in peers)


def vectors(task: TaskSpec, parts: Iterable[str]) -> tuple[list[bytes], bytes, str]:
    """What crosses links as bulk when all are in every round: their words and the sums; then the model and its hash."""
    rows = [load(SAMPLE_PREFIX + part, task.data) for part in parts]
    base, local, words = np.zeros(FLOATS, np.float32), np.empty(FLOATS, np.float32), np.empty(FLOATS + 1, np.uint32)
    bound, seen = task.bound, []
    for number in range(task.rounds):
        codec, total = ring.Codec(len(rows), bound), np.zeros(FLOATS + 1, np.uint32)
        for data in rows:
            local[:] = base
            for batch in range(number * task.round_duration, (number + 1) * task.round_duration):
                apply_batch(local, task.seed, data.content_hash, batch)
            weight = ring.weight_word(task.batch_size * task.round_duration, task.weight_cap)
            ring.encode(local, base, codec, weight, words)
            total += words
            seen.append(words.tobytes())
        bound = ring.apply_mean(base, total, codec, base).next_bound
        seen.append(total.tobytes())
    return seen, base.tobytes(), ring.hash_floats(base).hex()


def is_in(secret: bytes, text: bytes) -> bool:
    """Whether any WINDOW bytes in a row of a secret are in the text, wherever they begin."""
    half = WINDOW // 2
    return any(secret[at : at + half] in text for at in range(0, len(secret) - half + 1, half))


def test_two_that_cannot_dial_each_other_train_by_relay_which_sees_nothing_of_it(crew: Crew, tmp_path: Path) -> None:
    spec = a_task(rounds=4, min_peers=3, straggle_seconds=20.0)
    task = msgspec.structs.replace(spec, training=msgspec.structs.replace(spec.training, validation_split=0.0))
    tape = tmp_path / "relayed"
    crew.open_node(words=[sys.executable, tapped_node.__file__, str(tape)])
    crew.add("a")
    crew.add("b", listen="off")
    crew.add("c", listen="off")
    crew.meet()
    paths = {pair: crew.peers[pair[0]].peer(pair[1])["path"] for pair in ("ab", "ac", "bc", "cb")}
    assert paths == {"ab": "direct", "ac": "direct", "bc": "relay", "cb": "relay"}
    crew.train(task)
    model = crew.finish()

    bulk, parameters, right = vectors(task, [peer.part for peer in crew.peers.values()])
    assert model == right  # so what is searched for is what was sent
    relayed = tape.read_bytes()
    pieces = 4 * FLOATS * task.rounds * 2 // 3  # a third of the vector each way
    sent = sum(crew.peers[one].peer(other)["bytes_up_by_kind"]["bulk"] for one, other in ("bc", "cb"))
    assert sent > 2 * pieces
    assert len(relayed) > sent  # all of it went this way
    assert not any(is_in(secret, relayed) for secret in (*bulk, parameters))

    (saved,) = (crew.peers["b"].paths.state / "states").glob("*/*.safetensors")
    assert is_in(parameters, saved.read_bytes())
    at = len(relayed) // 2 + 5
    for secret in bulk:
        assert is_in(secret, relayed[:at] + secret[1001 : 1001 + WINDOW] + relayed[at:])


def test_peers_that_are_relayed_go_over_to_direct_links_once_there_is_a_way_and_lose_no_round(tmp_path: Path) -> None:
    wall = tmp_path / "wall"
    wall.touch()

    def behind(name: str) -> list[str]:
        return [] if name == "node" else [sys.executable, walled_peer.__file__, str(wall)]

    with open_crew(where=behind) as crew:
        crew.open_node()
        for name in "abc":
            crew.add(name)
        crew.meet()
        peers = list(crew.peers.values())

        def paths() -> set[str]:
            return {one.peer(other.name)["path"] for one in peers for other in peers if other is not one}

        assert paths() == {"relay"}
        crew.train(a_task(rounds=400, min_peers=3, straggle_seconds=20.0))
        crew.reach(2, "a", "b", "c")
        assert paths() == {"relay"}
        wall.unlink()
        crew.until(lambda: paths() == {"direct"}, "all are linked directly")
        crew.reach(max(peer.round for peer in peers) + 2, "a", "b", "c")
        told = [event for peer in peers for event in peer.all("round.certified")]
        assert len({(e["round"], e["state"]) for e in told}) == len({e["round"] for e in told})
        for peer in peers:
            assert not peer.all("round.lost", "peer.disconnected")
            assert [e["round"] for e in peer.all("round.certified")] == list(range(1, peer.round + 1))

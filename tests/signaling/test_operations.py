"""Running a node: certificates, a proxy in front, metrics, the log, reading anew, going down."""

from __future__ import annotations

import json
import re
import signal
import ssl
import sys
from pathlib import Path

import pytest
import trio

from discod.errors import Broken
from discod.p2p.events import BulkArrived
from discod.p2p.mesh import ask_signaling
from discod.p2p.websocket import SignalingAt
from discod.wire.codec import decode
from discod.wire.signaling import Beat, Denied, Hello, Redeem, from_node
from signaling.certificates import Pair as Files
from signaling.certificates import pair_context
from signaling.limits import Limits
from signaling.node import open_listeners
from signaling.process import LOOPBACK
from tests.signaling.relayed import couple
from tests.signaling.running import NODE, ask, certificate_files, get, greet, guests, node, running, samples

COMMAND = [sys.executable, "-m", "signaling"]
ADDRESS = re.compile(r"(?:\d{1,3}\.){3}\d{1,3}|\[?[0-9a-f]*::[0-9a-f]*\]?|localhost")


# -- three kinds of node


async def test_peers_reach_a_node_with_certificate_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = certificate_files(tmp_path, "public")
    async with running(tmp_path / "home", "--tls", f"{certificate},{key}") as process:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        asked = await ask_signaling(f"localhost:{process.port}")
        assert asked.at.key == process.at.key
        strange, _ = certificate_files(tmp_path, "strange")
        monkeypatch.setenv("SSL_CERT_FILE", str(strange))
        with trio.fail_after(10):
            async with guests() as ring:
                with pytest.raises(Broken, match="neither of its pinned key nor of an authority"):
                    await ring(SignalingAt(f"wss://localhost:{process.port}", process.at.key))


async def test_a_bad_pair_ends_the_start_with_one_sentence(tmp_path: Path) -> None:
    certificate, _ = certificate_files(tmp_path, "one")
    _, other = certificate_files(tmp_path, "two")
    words = ["serve", "--listen", "127.0.0.1:0", "--home", str(tmp_path / "home"), "--tls", f"{certificate},{other}"]
    done = await trio.run_process([*COMMAND, *words], capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 64
    said = done.stderr.decode().splitlines()
    assert said == [
        f"error: {other} is not the key of {certificate}",
        "  try: give the two files of one pair: CERT,KEY",
    ]


class Front:
    """A proxy with a certificate, which says whom it serves as nginx does: what the client sent, then its address."""

    def __init__(self, files: tuple[Path, Path], port: int, address: str) -> None:
        self._context, self._port, self._address = pair_context(Files(*files)), port, address

    async def run(self, *, task_status: trio.TaskStatus[int]) -> None:
        listeners = await open_listeners("127.0.0.1", 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._serve, listeners)
            task_status.started(listeners[0].socket.getsockname()[1])

    async def _serve(self, tcp: trio.SocketStream) -> None:
        outside = trio.SSLStream(tcp, self._context, server_side=True, https_compatible=True)
        try:
            async with outside:
                head = b""
                while b"\r\n\r\n" not in head and (data := await outside.receive_some(4096)):
                    head += data
                if head:
                    await self._pass_on(head, outside)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _pass_on(self, head: bytes, outside: trio.abc.Stream) -> None:
        line = f"\r\nX-Forwarded-For: 10.9.9.9, {self._address}\r\n\r\n".encode()
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as inside, trio.open_nursery() as nursery:
            await inside.send_all(head.replace(b"\r\n\r\n", line, 1))
            nursery.start_soon(self._copy, outside, inside)
            await self._copy(inside, outside)
            nursery.cancel_scope.cancel()

    async def _copy(self, one: trio.abc.Stream, other: trio.abc.Stream) -> None:
        while data := await one.receive_some(4096):
            await other.send_all(data)
        await other.aclose()


@pytest.mark.parametrize(("proxies", "seen"), [(LOOPBACK, "198.51.100.7"), (frozenset(), "127.0.0.1")])
async def test_behind_a_proxy_an_address_is_what_the_trusted_proxy_says(
    proxies: frozenset[str], seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = certificate_files(tmp_path, "front")
    monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
    with trio.fail_after(20):
        async with (
            node(Limits(connections_per_address=1), proxies) as (_, port),
            trio.open_nursery() as nursery,
            guests() as ring,
        ):
            fronts = [Front(files, port, address) for address in ("198.51.100.7", "198.51.100.8")]
            doors = [await nursery.start(front.run) for front in fronts]
            ats = [SignalingAt(f"wss://localhost:{door}", NODE.peer_id) for door in doors]
            first = await ring(ats[0])
            hello = await greet(first, ats[0])
            assert isinstance(hello, Hello)
            assert hello.seen == seen
            again = decode(from_node, await (await ring(ats[0])).receive())
            assert isinstance(again, Denied)
            assert again.code == "too-many-connections"
            if proxies:  # the other address is not the first one's
                assert isinstance(await greet(await ring(ats[1]), ats[1]), Hello)
            nursery.cancel_scope.cancel()


async def test_behind_a_proxy_it_listens_on_loopback_alone_unless_told(tmp_path: Path) -> None:
    from signaling.__main__ import _plan

    nothing = {"home": tmp_path, "tls": None, "plain": False, "no_relay": False, "federated": False, "changes": ()}
    rest = {"limits_file": None, "drain": 1.0}
    plan = _plan(listen=None, behind_proxy=True, proxies=(), **nothing, **rest)  # type: ignore[arg-type]
    assert (plan.host, plan.port, plan.plain, plan.proxies) == ("127.0.0.1", 8765, True, LOOPBACK)
    plan = _plan(listen=None, behind_proxy=False, proxies=(), **nothing, **rest)  # type: ignore[arg-type]
    assert (plan.host, plan.plain, plan.proxies) == ("", False, frozenset())
    plan = _plan(listen=":1", behind_proxy=True, proxies=("192.0.2.1",), **nothing, **rest)  # type: ignore[arg-type]
    assert (plan.host, plan.proxies) == ("", frozenset({"192.0.2.1"}))


# -- metrics and the log


async def test_metrics_count_what_happened() -> None:
    with trio.fail_after(60):
        async with node() as (_, port), guests() as ring:
            at = SignalingAt(f"ws://127.0.0.1:{port}", NODE.peer_id)
            before = samples(await get(port, "/metrics"))
            assert before["discod_signaling_sessions"] == before["discod_signaling_relay_bytes_total"] == 0
            async with couple(at) as two:
                two.send(bytes(300_000))
                await two.until(lambda: any(isinstance(event, BulkArrived) for event in two.told))
                bad = await ring(at)
                denied = await ask(bad, Redeem(b"t" * 16))
                assert isinstance(denied, Denied)
                now = samples(await get(port, "/metrics"))
            assert now['discod_build_info{version="0.1.0"}'] == 1
            assert now["discod_signaling_rooms"] == 1
            assert now["discod_signaling_peers"] == 2
            assert now["discod_signaling_relays"] == 1
            assert now['discod_signaling_joins_total{result="joined"}'] >= 2
            assert now['discod_signaling_refusals_total{reason="bad-ticket"}'] == 1
            assert now["discod_signaling_relay_bytes_total"] > 300_000
            assert now["discod_signaling_handshake_seconds_count"] >= 4
            assert now["discod_signaling_handshake_seconds_sum"] > 0
            assert now["discod_signaling_ratelimited_total"] == now["discod_signaling_send_queue_drops_total"] == 0


async def test_refusals_for_asking_too_much_are_counted_by_reason() -> None:
    with trio.fail_after(20):
        async with node(Limits(connections_per_address=1)) as (_, port), guests() as ring:
            at = SignalingAt(f"ws://127.0.0.1:{port}", NODE.peer_id)
            first = await ring(at)
            assert isinstance(await greet(first, at), Hello)
            second = await ring(at)
            assert isinstance(decode(from_node, await second.receive()), Denied)
            now = samples(await get(port, "/metrics"))
            assert now['discod_signaling_refusals_total{reason="too-many-connections"}'] == 1
            assert now["discod_signaling_ratelimited_total"] == 1


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_the_log_of_a_session_has_no_address_above_debug(level: str, tmp_path: Path) -> None:
    limits = tmp_path / "limits.toml"
    flags = ("--plain", "--federated", "--limits", str(limits), "--log-level", level)
    limits.write_text("joins_per_minute = 100\n")
    with trio.fail_after(60):
        async with running(tmp_path, *flags) as process:
            async with couple(process.at) as two, guests() as ring:
                two.send(bytes(10_000))
                await two.until(lambda: any(isinstance(event, BulkArrived) for event in two.told))
                garbage = await ring(process.at)
                await garbage.send(b"\xc1")
                assert isinstance(decode(from_node, await garbage.receive()), Denied)
                await get(process.port, "/nothing")
                async with await trio.open_tcp_stream("127.0.0.1", process.port) as stream:
                    await stream.send_all(b"GET /v1 HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")
                    await stream.receive_some(4096)  # no WebSocket after all
                limits.write_text("joins_per_minute = 0\n")
                process.send(signal.SIGHUP)
                await process.logged("reload.refused")
            process.send(signal.SIGTERM)
            assert await process.ended() == 0
    events = [json.loads(line)["event"] for line in process.log]
    assert {"node.started", "peer.joined", "peer.left", "reload.refused", "drain.started", "node.stopped"} <= {*events}
    found = [line for line in process.log if ADDRESS.search(line)]
    assert not found if level == "info" else found
    assert all(json.loads(line)["level"] == "debug" for line in found)


# -- reading anew


async def test_sighup_takes_new_limits_and_a_broken_edit_changes_nothing(tmp_path: Path) -> None:
    limits = tmp_path / "limits.toml"
    with trio.fail_after(30):
        async with running(tmp_path, "--plain") as process, guests() as ring:
            at = process.at
            first, second = await ring(at), await ring(at)
            assert isinstance(await greet(first, at), Hello)
            assert isinstance(await greet(second, at), Hello)
            limits.write_text("connections-per-address = 2\n")
            process.send(signal.SIGHUP)
            await process.logged("reload.done")
            denied = decode(from_node, await (await ring(at)).receive())
            assert isinstance(denied, Denied)
            assert denied.code == "too-many-connections"
            for broken, why in (
                ("connections_per_address = ", "is no TOML"),
                ("connections_per_adress = 9", "sets no limit"),
                ("connections_per_address = true", "no whole number"),
                ("connections_per_address = -1", "no whole number"),
            ):
                limits.write_text(broken)
                process.send(signal.SIGHUP)
                entry = await process.logged("reload.refused")
                assert why in entry["why"]
                assert "limits.toml" in entry["why"]
            assert isinstance(decode(from_node, await (await ring(at)).receive()), Denied)
            assert await ask(first, Beat(3)) == await ask(second, Beat(3)) == Beat(3)  # who was here stays
            now = samples(await get(process.port, "/metrics"))
            assert now['discod_signaling_reloads_total{result="done"}'] == 1
            assert now['discod_signaling_reloads_total{result="refused"}'] == 4


async def test_sighup_takes_new_certificate_files_and_a_mismatch_changes_nothing(tmp_path: Path) -> None:
    certificate, key = certificate_files(tmp_path, "served")
    old = certificate.read_text()
    new, new_key = certificate_files(tmp_path, "new")

    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", process.port))

    with trio.fail_after(30):
        async with running(tmp_path, "--tls", f"{certificate},{key}") as process, guests() as ring:
            at = SignalingAt(f"wss://localhost:{process.port}", process.at.key)
            before = await ring(at)
            assert isinstance(await greet(before, at), Hello)
            assert await trio.to_thread.run_sync(shown) == old
            certificate.write_text(new.read_text())
            process.send(signal.SIGHUP)
            assert "is not the key of" in (await process.logged("reload.refused"))["why"]
            assert await trio.to_thread.run_sync(shown) == old
            key.write_text(new_key.read_text())
            process.send(signal.SIGHUP)
            await process.logged("reload.done")
            assert await trio.to_thread.run_sync(shown) == new.read_text() != old
            assert await ask(before, Beat(1)) == Beat(1)

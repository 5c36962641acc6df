import os
import signal
from collections.abc import Callable, Mapping

import pytest
import trio

from discod.daemon.desk import LINKS_SECONDS
from discod.errors import AlreadyRunning, Exit, UserError
from discod.store import Store, home_lock
from discod.store.files import disk_full
from tests.daemon.conftest import Home, in_thread, signaling_node, task_toml

MakeHome = Callable[[str], Home]


async def fails(home: Home, route: str, body: Mapping[str, object] | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        await (home.get(route) if body is None else home.post(route, dict(body)))
    return caught.value


async def test_an_empty_daemon_is_healthy_and_says_who_it_is(home: MakeHome) -> None:
    a = home("a")
    async with a.up():
        status = await a.get("/v1/status")
        assert (status["name"], status["state"], status["meshes"], status["runs"]) == ("a", "healthy", [], [])
        assert status["engine"] == "stand-in"
        assert (await fails(a, "/v1/invites", {})).code == "no-mesh"
        assert (await fails(a, "/readyz")).code == "not-ready"


async def test_shutdown_ends_the_daemon_and_the_socket_goes_last(home: MakeHome) -> None:
    a = home("a")
    async with a.up():
        heard: list[str] = []
        listening = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def read() -> None:
            for event in a.client.events():
                heard.append(event["type"])
                token.run_sync_soon(listening.set)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, read)
            await listening.wait()
            await a.post("/v1/shutdown")
    assert heard == ["daemon.started", "daemon.stopping"]
    assert not a.paths.socket.exists()


async def test_a_second_daemon_in_the_same_home_is_refused(home: MakeHome) -> None:
    a = home("a")
    async with a.up():
        with pytest.raises(AlreadyRunning), home_lock(a.paths.state):
            pass


async def test_a_mesh_is_made_invited_to_and_joined(home: MakeHome, signaling: str) -> None:
    a, b = home("a"), home("b")
    async with a.up(), b.up():
        made = await a.post("/v1/meshes", {"name": "oncology", "signaling": signaling})
        assert (made["role"], made["root"], made["peers"]) == ("admin", True, 1)
        invite = await a.post("/v1/invites", {"uses": 1})
        assert invite["state"] == "open"
        op = await b.post("/v1/join", {"link": invite["link"]})
        joined = await in_thread(b.client.wait_for_op, op["op"], op["since"])
        assert [(peer["name"], peer["state"]) for peer in joined["peers"]] == [("b", "self"), ("a", "linked")]
        told = {event["type"]: event["time"] for event in await in_thread(lambda: list(b.client.events(follow=False)))}
        assert (
            told["op.finished"] - told["mesh.joined"] < LINKS_SECONDS / 2
        )  # it ends with the links, not with its time
        await a.wait_for("peer.connected")
        (invites,) = await a.get("/v1/invites")
        assert (invites["used"], invites["state"]) == (1, "used-up")
        shown = await a.get("/v1/peers/b")
        assert (shown["path"], shown["role"]) == ("direct", "trainer")
        assert shown["bytes_up_by_kind"]["control"] > 0
        used = await b.post("/v1/join", {"link": invite["link"], "wait_seconds": 5})
        assert used["op"] == "op-2"  # a member that joins again is told, not refused


async def test_a_revoked_invite_admits_nobody(home: MakeHome, signaling: str) -> None:
    a, b = home("a"), home("b")
    async with a.up(), b.up():
        await a.post("/v1/meshes", {"name": "m", "signaling": signaling})
        invite = await a.post("/v1/invites", {})
        revoked = await a.post(f"/v1/invites/{invite['id']}/revoke")
        assert revoked["state"] == "revoked"
        op = await b.post("/v1/join", {"link": invite["link"], "wait_seconds": 10})
        with pytest.raises(UserError) as caught:
            await in_thread(b.client.wait_for_op, op["op"], op["since"])
        assert caught.value.exit == Exit.BAD_INVITE
        assert (await b.get(f"/v1/ops/{op['op']}"))["state"] == "failed"


async def test_bad_requests_have_names(home: MakeHome, signaling: str) -> None:
    a = home("a")
    async with a.up():
        assert (await fails(a, "/v1/join", {"link": "discod://h:1/j/x.y"})).exit == Exit.BAD_INVITE
        nowhere = {"name": "m", "signaling": "ws://127.0.0.1:1"}
        assert (await fails(a, "/v1/meshes", nowhere)).exit == Exit.SIGNALING_UNREACHABLE
        await a.post("/v1/meshes", {"name": "m", "signaling": signaling})
        assert (await fails(a, "/v1/meshes", {"name": "m", "signaling": signaling})).code == "name-taken"
        assert (await fails(a, "/v1/tasks", {"toml": "name = 3"})).exit == Exit.BAD_DATA
        assert (await fails(a, "/v1/tasks/nothing")).code == "unknown-task"
        assert (await fails(a, "/v1/peers/nobody")).code == "unknown-peer"
        assert (await fails(a, "/v1/runs/7")).code == "unknown-run"
        published = await a.post("/v1/tasks", {"toml": task_toml()})
        assert published["accepted_by"] == []
        assert (await fails(a, "/v1/tasks", {"toml": task_toml(rounds=9)})).code == "name-taken"
        assert (await fails(a, "/v1/tasks/digits/accept", {"data": "none"})).code == "unknown-data"


async def test_a_full_disk_refuses_an_acceptance_but_no_offer(
    home: MakeHome, signaling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(store: Store, row: object) -> None:
        raise disk_full(store.database.path)

    a = home("a")
    a.add_data("scans", "digits:0-3")
    async with a.up():
        await a.post("/v1/meshes", {"name": "m", "signaling": signaling})
        with monkeypatch.context() as disk:
            disk.setattr(Store, "save_task", full)
            await a.post("/v1/tasks", {"toml": task_toml()})
            assert (await fails(a, "/v1/tasks/digits/accept", {"data": "scans"})).code == "disk-full"
            assert await a.get("/v1/runs") == []
        run = await a.post("/v1/tasks/digits/accept", {"data": "scans"})
        assert (await a.wait_for("run.finished", "run.failed", since=run["since"]))["type"] == "run.finished"


async def test_an_accepted_task_trains_to_the_end_and_leaves_a_model(home: MakeHome, signaling: str) -> None:
    a = home("a")
    a.add_data("scans", "digits:0-3")
    async with a.up():
        await a.post("/v1/meshes", {"name": "m", "signaling": signaling})
        await a.post("/v1/tasks", {"toml": task_toml()})
        run = await a.post("/v1/tasks/digits/accept", {"data": "scans"})
        ended = await a.wait_for("run.finished", "run.failed", since=run["since"])
        assert ended["type"] == "run.finished"
        assert ended["round"] == 3
        events = await in_thread(lambda: list(a.client.events(follow=False, types=["round.finished"])))
        assert [(event["round"], event["batches"]) for event in events] == [(1, 2), (2, 4), (3, 6)]
        shown = await a.get(f"/v1/runs/{run['id']}")
        assert (shown["state"], shown["round"], shown["series"]["round"]) == ("finished", 3, [1, 2, 3])
        assert shown["model"]["hash"] == ended["model"]["hash"]
        (model,) = await a.get("/v1/models")
        assert model["hash"] == ended["model"]["hash"]
        again = await a.post("/v1/tasks/digits/accept", {"data": "scans"})
        assert again["id"] == run["id"]
        assert (await a.get("/v1/tasks/digits"))["mine"] == {"run": 1, "data": "scans", "state": "finished"}


async def test_data_that_do_not_fit_are_refused_before_anything_starts(home: MakeHome, signaling: str) -> None:
    a = home("a")
    a.add_data("scans", "digits:0-3")
    async with a.up():
        await a.post("/v1/meshes", {"name": "m", "signaling": signaling})
        await a.post("/v1/tasks", {"toml": task_toml().replace("classes = 10", "classes = 2")})
        assert (await fails(a, "/v1/tasks/digits/accept", {"data": "scans"})).exit == Exit.BAD_DATA
        assert await a.get("/v1/runs") == []


async def test_a_run_waits_for_peers_and_goes_on_after_a_restart(home: MakeHome, signaling: str) -> None:
    a = home("a")
    a.add_data("scans", "digits:0-3")
    async with a.up(needed=2):
        await a.post("/v1/meshes", {"name": "m", "signaling": signaling})
        await a.post("/v1/tasks", {"toml": task_toml()})
        run = await a.post("/v1/tasks/digits/accept", {"data": "scans"})
        waiting = await a.wait_for("run.waiting", since=run["since"])
        assert waiting["words"] == "waiting for 2 peers: 1 ready (you); the mesh has only 1: discod invite"
        assert (await a.get("/v1/status"))["runs"][0]["state"] == "waiting"
    async with a.up(needed=1):
        ended = await a.wait_for("run.finished", "run.failed")
        assert (ended["type"], ended["run"], ended["round"]) == ("run.finished", run["id"], 3)
    async with a.up(needed=1):  # it serves what was certified
        (shown,) = (await a.get("/v1/status"))["runs"]
        assert (shown["state"], shown["round"], shown["model"]["round"]) == ("finished", 3, 3)


async def test_an_unreachable_signaling_node_degrades_the_status(home: MakeHome) -> None:
    a, node = home("a"), trio.CancelScope()

    async def run_node(*, task_status: trio.TaskStatus[str]) -> None:
        with node:
            await signaling_node(task_status=task_status)

    async with trio.open_nursery() as nursery:
        url = await nursery.start(run_node)
        async with a.up():
            await a.post("/v1/meshes", {"name": "m", "signaling": url})
            await a.wait_for("signaling.connected")
            assert (await a.get("/v1/status"))["state"] == "healthy"
            node.cancel()
            assert (await a.wait_for("signaling.lost"))["url"] == url
            status = await a.get("/v1/status")
            assert status["state"] == "degraded"
            assert url in status["warnings"][0]["text"]


async def test_a_killed_worker_is_replaced_and_the_run_goes_on(home: MakeHome, signaling: str) -> None:
    a = home("a")
    a.add_data("scans", "digits:0-3")
    async with a.up(needed=2) as daemon:
        await a.post("/v1/meshes", {"name": "m", "signaling": signaling})
        await a.post("/v1/tasks", {"toml": task_toml()})
        run = await a.post("/v1/tasks/digits/accept", {"data": "scans"})
        await a.wait_for("run.waiting", since=run["since"])
        live = daemon.runs.live()[0]
        assert live.worker_pid is not None
        os.kill(live.worker_pid, signal.SIGKILL)
        exchange = live.exchange
        exchange.enough.set()  # type: ignore[attr-defined]  # the test's own
        ended = await a.wait_for("run.finished", "run.failed", since=run["since"])
        assert ended["type"] == "run.finished"
        assert (await a.get(f"/v1/runs/{run['id']}"))["worker_restarts"] == 1
        events = await in_thread(lambda: list(a.client.events(follow=False, types=["worker.died"])))
        assert len(events) == 1

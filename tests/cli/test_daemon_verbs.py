"""Verbs that ask the daemon: what they ask, what they show, how they fail."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from discod.identity import make_link
from tests.cli.conftest import Type
from tests.cli.fake_daemon import MESH, MODEL, PEER, RUN, STATUS, TASK, FakeDaemon

LINK = make_link("127.0.0.1", 8765, bytes(32), bytes(range(32)), bytes(range(1, 33)), tls=False)


def test_status_is_one_screen(discod: Type, daemon: FakeDaemon) -> None:
    daemon.answer("GET", "/v1/status", STATUS)
    shown = discod("status")
    assert shown.code == 0
    assert shown.out.splitlines() == [
        "discod 0.1.0 · running 3 h · clinic-a K7QX-4M2P · engine tinygrad CPU",
        "mesh oncology  3 peers (1 direct, 1 relayed)  signaling ok 48 ms",
        "run  digits #2  training  round 14/50  loss 0.214  accuracy 0.910  eta 11 min",
    ]


def test_degraded_status_is_4_and_says_what_to_try(discod: Type, daemon: FakeDaemon) -> None:
    lost = {**MESH, "signaling": {**MESH["signaling"], "connected": False, "error": "refused"}}  # type: ignore[dict-item]
    warning = {"text": "home-c 2 rounds behind", "try": "discod peers show home-c"}
    daemon.answer("GET", "/v1/status", {**STATUS, "state": "degraded", "warnings": [warning], "meshes": [lost]})
    shown = discod("status", "--json")
    assert (shown.code, shown.data["state"]) == (4, "degraded")
    text = discod("status").out
    assert "warn home-c 2 rounds behind   -> discod peers show home-c" in text
    assert "signaling unreachable (refused)" in text


def test_status_starts_no_daemon(discod: Type, home: Path) -> None:
    shown = discod("status")
    assert shown.code == 3
    assert "try: " in shown.err
    assert not (home / "state" / "daemon.log").exists()


@pytest.mark.parametrize("verb", [["peers"], ["runs"], ["task", "list"], ["mesh", "list"], ["invite", "list"]])
def test_no_start_is_3_and_no_identity_comes_first(discod: Type, verb: list[str]) -> None:
    assert discod(*verb, "--no-start").code == 10
    discod("init", "--name", "a")
    shown = discod("--no-start", *verb, "--json")
    assert (shown.code, shown.error["code"]) == (3, "not-running")


def test_usage_then_config_then_arguments_then_identity(discod: Type, home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("nmae = 'a'\n")
    assert discod("join", "-x").code == 2
    assert discod("join", "nonsense").code == 64
    (home / "config.toml").unlink()
    assert discod("join", "nonsense").code == 66
    assert discod("train", "digits", "--data", "nothing").code == 65
    assert discod("task", "publish", "no-such-file.toml").code == 65
    assert discod("task", "publish", "digits").code == 10
    assert not (home / "state" / "identity.key").exists()


def test_mesh_create_show_and_list(discod: Type, daemon: FakeDaemon) -> None:
    daemon.answer("POST", "/v1/meshes", MESH, 201)
    daemon.answer("GET", "/v1/meshes", [MESH])
    assert "M4TZ-8HQN" in discod("mesh", "create", "oncology", "--signaling", "127.0.0.1").out
    assert daemon.asked[-1] == ("POST", "/v1/meshes", {"name": "oncology", "signaling": "127.0.0.1"})
    assert discod("mesh", "show", "--json").data == MESH
    assert "mesh oncology  3 peers" in discod("mesh", "list").out


def test_error_of_the_daemon_is_shown_as_it_is(discod: Type, daemon: FakeDaemon) -> None:
    daemon.refuse("POST", "/v1/meshes", 502, "signaling-unreachable", 69)
    shown = discod("mesh", "create", "m", "--signaling", "127.0.0.1")
    assert (shown.code, shown.err) == (69, "error: why\ntry: what\n")
    assert discod("mesh", "create", "m", "--signaling", "x", "--json").error["code"] == "signaling-unreachable"


def test_invite_prints_the_link_alone_on_stdout(discod: Type, daemon: FakeDaemon) -> None:
    daemon.answer("POST", "/v1/invites", {"id": "7F3K", "link": LINK}, 201)
    shown = discod("invite", "--uses", "2", "--expires", "30m", "--qr")
    assert shown.out == LINK + "\n"
    assert "2 uses" in shown.err
    assert "█" in shown.err or "▀" in shown.err
    body = {"uses": 2, "expires_seconds": 1800, "role": "trainer"}
    assert daemon.asked[-1] == ("POST", "/v1/invites", body)
    discod("invite", "oncology")
    assert daemon.asked[-1][2]["mesh"] == "oncology"


def test_invites_are_listed_and_revoked(discod: Type, daemon: FakeDaemon) -> None:
    one = {"id": "7F3K", "mesh": "m", "role": "trainer", "uses": 2, "used": 1, "expires": 0.0, "state": "expired"}
    daemon.answer("GET", "/v1/invites", [one])
    daemon.answer("POST", "/v1/invites/7F3K/revoke", {**one, "state": "revoked"})
    assert "7F3K  m     trainer  1/2   expired  expired" in discod("invite", "list").out
    assert discod("invite", "revoke", "7F3K").out == "revoked 7F3K\n"


def join_answers(daemon: FakeDaemon) -> None:
    daemon.answer("POST", "/v1/join", {"op": "op-1", "since": 4}, 202)
    daemon.events = [
        {"id": 5, "type": "op.progress", "op": "op-1", "text": "clock skew 0.2 s"},
        {
            "id": 6,
            "type": "op.finished",
            "op": "op-1",
            "data": {**MESH, "role": "trainer", "peers": [PEER | {"self": False}]},
        },
    ]


@pytest.mark.parametrize("way", ["stdin", "dash", "variable", "argument"])
def test_join_takes_the_link_four_ways(
    way: str, discod: Type, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    join_answers(daemon)
    monkeypatch.setattr("sys.stdin", io.StringIO(LINK + "\n" if way in ("stdin", "dash") else ""))
    if way == "variable":
        monkeypatch.setenv("DISCOD_INVITE", LINK)
    shown = discod("join", *{"dash": ["-"], "argument": [LINK]}.get(way, []), "--wait", "5s")
    assert shown.code == 0, shown.err
    assert shown.out.startswith("joined oncology (trainer): lab-b direct")
    assert " ok  clock skew 0.2 s" in shown.err
    assert ("POST", "/v1/join", {"link": LINK, "wait_seconds": 5.0}) in daemon.asked
    assert ("ps" in shown.err) == (way == "argument")


def test_join_never_asks_where_nobody_can_answer(discod: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    shown = discod("join")
    assert shown.code == 66
    assert "stdin held no invite link" in shown.err


def test_failed_join_exits_as_the_operation_says(
    discod: Type, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.answer("POST", "/v1/join", {"op": "op-1", "since": 0}, 202)
    error = {"code": "bad-invite", "message": "it expired", "hint": "ask again", "exit": 66}
    daemon.events = [{"id": 1, "type": "op.failed", "op": "op-1", "error": error}]
    monkeypatch.setenv("DISCOD_INVITE", LINK)
    assert discod("join").code == 66


def test_cut_link_never_reaches_the_daemon(discod: Type, daemon: FakeDaemon) -> None:
    shown = discod("join", LINK.partition("#")[0])
    assert shown.code == 66
    assert "#" in shown.err
    assert [asked for asked in daemon.asked if asked[0] == "POST"] == []


def test_peers_in_a_table_and_one_in_full(discod: Type, daemon: FakeDaemon) -> None:
    daemon.answer("GET", "/v1/peers", [PEER, PEER | {"path": "relay", "last_error": "direct: does not answer"}])
    daemon.answer("GET", "/v1/peers/lab-b", PEER)
    table = discod("peers").out.splitlines()
    assert table[0].split() == ["NAME", "ID", "STATE", "PATH", "RTT", "ROUND", "UP/DOWN", "VERSION", "LAST", "ERROR"]
    assert table[2].endswith("  direct: does not answer")
    assert table[1].split()[:7] == ["lab-b", "9DW3-XXXX", "linked", "direct", "12", "ms", "14"]
    assert "9DW3-FULL" in discod("peers", "show", "lab-b").out


def test_task_is_published_listed_and_shown(discod: Type, daemon: FakeDaemon, home: Path) -> None:
    daemon.answer("POST", "/v1/tasks", TASK, 201)
    daemon.answer("GET", "/v1/tasks", [TASK])
    daemon.answer("GET", "/v1/tasks/digits", TASK)
    assert discod("task", "new", "digits").code == 0
    assert "starts when 3 peers accept" in discod("task", "publish", "digits.toml").out
    assert 'name = "digits"' in daemon.asked[-1][2]["toml"]
    assert "not accepted" in discod("task", "list").out
    assert "runs no code" in discod("task", "show", "digits").out


def accepted(discod: Type, daemon: FakeDaemon) -> None:
    discod("data", "add", "scans", "--sample", "digits:1/3")
    daemon.answer("GET", "/v1/tasks/digits", TASK)
    daemon.answer("POST", "/v1/tasks/T9KQ-FULL/accept", {**RUN, "since": 7, "words": "waiting for 3 peers"}, 202)


def test_train_needs_a_yes_where_nobody_can_be_asked(discod: Type, daemon: FakeDaemon) -> None:
    accepted(discod, daemon)
    shown = discod("train", "digits")
    assert shown.code == 12
    assert "runs no code" in shown.err
    assert "try: add --yes" in shown.err
    shown = discod("train", "digits", "--yes")
    assert (shown.code, shown.out) == (0, "accepted digits with 'scans': waiting for 3 peers\n")
    assert daemon.asked[-1] == ("POST", "/v1/tasks/T9KQ-FULL/accept", {"data": "scans", "mesh": "oncology"})


def finished(reached: bool | None) -> list[dict[str, Any]]:
    round_ = {
        "round": 1,
        "rounds": 50,
        "loss": 0.5,
        "accuracy_local": 0.4,
        "accuracy": 0.9,
        "peers": 3,
        "bytes_up": 1500,
    }
    end = {"accuracy": 0.9, "accuracy_local": 0.4, "model": MODEL, "seconds": 12.0, "reached_target": reached}
    return [
        {"id": 8, "type": "run.waiting", "run": 2, "words": "waiting for 3 peers"},
        {"id": 9, "type": "run.training", "run": 2, "round": 1},
        {"id": 10, "type": "round.finished", "run": 2, **round_},
        {"id": 11, "type": "run.finished", "run": 2, "task": "digits", "round": 50, **end},
    ]


def test_follow_shows_what_all_peers_measured_together(discod: Type, daemon: FakeDaemon) -> None:
    accepted(discod, daemon)
    daemon.events = finished(True)
    daemon.events[2] |= {"accuracy_joint": 0.93}
    shown = discod("train", "digits", "--yes", "--follow")
    assert "together 0.900  joint accuracy 0.930 over the peers' own validation rows  3 peers" in shown.err


@pytest.mark.parametrize(("reached", "code"), [(True, 0), (None, 0), (False, 6)])
def test_follow_ends_with_model_accuracy_and_export(
    reached: bool | None, code: int, discod: Type, daemon: FakeDaemon
) -> None:
    accepted(discod, daemon)
    daemon.events = finished(reached)
    shown = discod("train", "digits", "--yes", "--follow")
    assert shown.code == code
    assert "round 1/50  loss 0.500  alone 0.400  together 0.900  3 peers  sent 1.5 kB" in shown.err
    assert "You may close this" in shown.err
    assert shown.out.splitlines()[-1] == "export it: discod model export digits -o digits.safetensors"


def test_follow_as_json_lines(discod: Type, daemon: FakeDaemon) -> None:
    accepted(discod, daemon)
    daemon.events = finished(True)
    lines = [json.loads(line) for line in discod("train", "digits", "--yes", "--follow", "--jsonl").out.splitlines()]
    assert [line["type"] for line in lines] == ["run.waiting", "round.finished", "run.finished"]


def test_failed_run_exits_as_the_daemon_says(discod: Type, daemon: FakeDaemon) -> None:
    accepted(discod, daemon)
    error = {"code": "bad-data", "message": "gone", "hint": "mend it", "exit": 65}
    daemon.events = [{"id": 8, "type": "run.failed", "run": 2, "task": "digits", "error": error}]
    assert discod("train", "digits", "--yes", "--follow").code == 65


def test_leaving_a_follow_leaves_the_run(discod: Type, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted(discod, daemon)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("discod.client.Client.events", interrupted)
    shown = discod("train", "digits", "--yes", "--follow")
    assert shown.code == 130
    assert "digits goes on" in shown.err


def test_runs_in_a_table_and_one_in_full(discod: Type, daemon: FakeDaemon) -> None:
    series = {
        "round": [1, 2],
        "loss": [0.5, 0.4],
        "accuracy_local": [0.5, None],
        "accuracy": [0.6, 0.7],
        "peers": [3, 3],
    }
    daemon.answer("GET", "/v1/runs", [RUN])
    daemon.answer("GET", "/v1/runs/2", {**RUN, "series": series})
    assert "14/50" in discod("runs").out
    assert discod("runs", "show", "2").out.splitlines()[-1].split() == ["2", "0.400", "—", "0.700", "3"]


def test_up_and_down_of_a_running_daemon(discod: Type, daemon: FakeDaemon, home: Path) -> None:
    daemon.answer("GET", "/v1/status", STATUS)
    assert discod("up", "--json").data == {"pid": 7, "started": False}

    def stop(method: str, path: str, body: Any) -> tuple[int, bytes]:
        if path == "/v1/shutdown":
            os.unlink(home / "control.sock")
        return 200, json.dumps({"ok": True, "data": {"pid": 7}}).encode()

    daemon.reply = stop  # type: ignore[method-assign]
    assert discod("down").out == "stopped discod\n"
    assert discod("down", "--json").data == {"stopped": False}


def test_alone_discod_says_what_to_do_next(discod: Type) -> None:
    assert "discod join" in discod().out
    discod("init", "--name", "a")
    assert "discod up" in discod().out


def test_alone_discod_shows_status_and_the_next_step(discod: Type, daemon: FakeDaemon) -> None:
    daemon.answer("GET", "/v1/status", {**STATUS, "runs": []})
    assert "discod data add" in discod().out
    discod("data", "add", "scans", "--sample", "digits:1/3")
    assert "discod task list" in discod().out
    daemon.answer("GET", "/v1/status", STATUS)
    assert "discod train digits --follow" in discod().out

"""A daemon that answers from a table: the control API on a real unix socket, without anything behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from threading import Thread
from typing import Any

SIGNALING = {"url": "ws://127.0.0.1:8765", "connected": True, "rtt_seconds": 0.048, "error": None, "key": "S1GN-A11N"}
MESH = {
    "name": "oncology",
    "id": "M4TZ-8HQN-FULL",
    "short": "M4TZ-8HQN",
    "root": True,
    "role": "admin",
    "peers": 3,
    "linked": 2,
    "direct": 1,
    "relayed": 1,
    "signaling": SIGNALING,
    "created": 1.0,
}
RUN = {
    "id": 2,
    "privacy": None,
    "task": "digits",
    "task_id": "T9KQ-FULL",
    "mesh": "oncology",
    "data": "scans",
    "state": "training",
    "words": "training",
    "round": 14,
    "rounds": 50,
    "batches": 112,
    "samples": 3584,
    "loss": 0.214,
    "accuracy": 0.91,
    "accuracy_local": 0.88,
    "train_accuracy": 0.97,
    "peers": {"current": 3, "total": 3, "average": 3.0},
    "bytes_up": 1_200_000,
    "bytes_down": 1_100_000,
    "eta_seconds": 660.0,
    "started": 1.0,
    "finished": None,
    "lost_rounds": 0,
    "worker_restarts": 0,
    "error": None,
    "model": None,
    "roster": ["clinic-a", "lab-b", "home-c"],
}
STATUS = {
    "version": "0.1.0",
    "name": "clinic-a",
    "peer": "K7QX-4M2P",
    "peer_id": "K7QX-4M2P-FULL",
    "pid": 7,
    "uptime_seconds": 10_800.0,
    "engine": "tinygrad CPU",
    "state": "healthy",
    "warnings": [],
    "meshes": [MESH],
    "runs": [RUN],
    "memory_mb": 60.0,
}
PEER = {
    "name": "lab-b",
    "id": "9DW3-FULL",
    "short": "9DW3-XXXX",
    "mesh": "oncology",
    "role": "trainer",
    "self": False,
    "linked": True,
    "path": "direct",
    "rtt_seconds": 0.012,
    "bytes_up": 21_000_000,
    "bytes_down": 20_000_000,
    "version": "0.1.0",
    "last_error": None,
    "last_seen": 1.0,
    "state": "linked",
    "tasks": [{"task": "digits", "accepted": True, "round": 14}],
}
TASK = {
    "name": "digits",
    "id": "T9KQ-FULL",
    "short": "T9KQ-22XD",
    "mesh": "oncology",
    "scheme": "decentralized",
    "aggregator": "mean",
    "min_peers": 3,
    "rounds": 50,
    "round_duration": 8,
    "published_by": "clinic-a",
    "published": 1.0,
    "accepted_by": ["clinic-a"],
    "mine": None,
    "toml": 'name = "digits"\n',
    "summary": ["sends updates, about 10 kB per peer and round", "runs no code"],
}
MODEL = {
    "ref": "digits",
    "task": "digits",
    "round": 50,
    "hash": "ab" * 32,
    "path": "/state/models/digits.safetensors",
    "accuracy": 0.93,
    "created": 1.0,
    "certified": True,
}


class FakeDaemon:
    """What it answers (`routes`), what it streams (`events`), and what it was asked (`asked`)."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], tuple[int, Any]] = {("GET", "/healthz"): (200, {"live": True})}
        self.events: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, Any]] = []

    def answer(self, method: str, route: str, data: Any, status: int = 200) -> None:
        """From now on `method route` gives `data`, in the envelope of its status."""
        self.routes[method, route] = (status, data)

    def refuse(self, method: str, route: str, status: int, code: str, exit_code: int) -> None:
        """From now on `method route` fails with this error."""
        self.routes[method, route] = (status, {"code": code, "message": "why", "hint": "what", "exit": exit_code})

    def reply(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        """Status and bytes of one answer."""
        self.asked.append((method, path, body))
        if path.startswith("/v1/events"):
            return 200, b"".join(json.dumps(event).encode() + b"\n" for event in self.events)
        missing = (404, {"code": "unknown-route", "message": path, "hint": "", "exit": 2})
        status, data = self.routes.get((method, path), missing)
        ok = {"schema": "discod.fake/1", "ok": True, "data": data}
        return status, json.dumps(ok if status < 300 else {"schema": "discod.error/1", "ok": False, **data}).encode()


@contextmanager
def fake_daemon(socket: Path) -> Iterator[FakeDaemon]:
    """A fake daemon on `socket` for the block."""
    fake = FakeDaemon()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name http.server calls
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, raw = fake.reply(self.command, self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET  # noqa: N815

        def address_string(self) -> str:
            return "unix"

        def log_message(self, format: str, *args: Any) -> None:
            return

    socket.parent.mkdir(parents=True, exist_ok=True)
    with ThreadingUnixStreamServer(str(socket), Answer) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()

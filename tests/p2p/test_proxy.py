"""The way to the node through a proxy that asks for a password, and what a certificate has to prove when asked to."""

from __future__ import annotations

import secrets
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from discod.errors import Broken
from discod.p2p.proxy import Proxy, proxy_for
from discod.p2p.websocket import SignalingAt, ask_signaling, call
from discod.wire.codec import PROTOCOL_VERSION, decode, encode
from discod.wire.signaling import Hello, Knock, from_node
from signaling.lobby import Lobby
from signaling.node import node_context, open_listeners, run_node
from tests.p2p.pairs import identity

NODE, OTHER = identity(200), identity(201)
SECRET = "pass:w@rd"
URL = "http://anna:pass%3Aw%40rd@127.0.0.1:{}"


# -- which proxy


@pytest.mark.parametrize(
    ("environ", "address", "proxy"),
    [
        ({}, "node.org:8765", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "node.org:8765", "proxy:3128"),
        ({"HTTPS_PROXY": "http://upper:1", "https_proxy": "lower:2"}, "node.org:8765", "lower:2"),
        ({"HTTPS_PROXY": "https://proxy"}, "node.org:8765", "proxy:443"),
        ({"HTTPS_PROXY": "http://[2001:db8::1]:8080"}, "node.org:8765", "[2001:db8::1]:8080"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "127.0.0.1:8765", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "localhost:8765", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, "node.org:8765", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "a.org, node.org"}, "node.org:8765", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".org"}, "Node.org:8765", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*.org"}, "node.org:8765", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "node.org:8765"}, "node.org:8765", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "node.org:443"}, "node.org:8765", "proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "ode.org,,"}, "node.org:8765", "proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "10.0.0.0/8"}, "10.2.3.4:8765", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "10.0.0.0/8"}, "11.2.3.4:8765", "proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "2001:db8::/32"}, "[2001:db8::5]:8765", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "no_proxy": "node.org", "NO_PROXY": "a.org"}, "node.org:8765", None),
    ],
)
def test_the_environment_says_which_proxy_is_on_the_way(
    environ: dict[str, str], address: str, proxy: str | None
) -> None:
    found = proxy_for(address, environ)
    assert (found.address if found is not None else None) == proxy


@pytest.mark.parametrize("url", ["ftp://p:1", "http://", "http://p:99999", "http://anna:top-secret@p:x", "//"])
def test_what_is_no_proxy_is_named_without_its_password(url: str) -> None:
    with pytest.raises(Broken, match="HTTPS_PROXY names no proxy") as raised:
        proxy_for("node.org:8765", {"HTTPS_PROXY": url})
    assert "top-secret" not in str(raised.value) + repr(raised.value.__context__)


def test_no_repr_shows_a_password() -> None:
    proxy = proxy_for("node.org:8765", {"HTTPS_PROXY": "http://anna:top-secret@proxy:3128"})
    assert isinstance(proxy, Proxy)
    assert b64encode(b"anna:top-secret") in proxy.request("node.org:8765")
    assert "top-secret" not in repr(proxy) + proxy.address


# -- the way


class TestProxy:
    """A proxy that takes `answer` for every way but ours, and gives that to `port`."""

    __test__ = False

    def __init__(self, port: int, answer: bytes = b"", context: ssl.SSLContext | None = None) -> None:
        self.port, self.answer, self.context = port, answer, context
        self.heads: list[bytes] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            client: trio.abc.Stream = stream
            if self.context is not None:
                client = trio.SSLStream(stream, self.context, server_side=True, https_compatible=True)
            head = b""
            while b"\r\n\r\n" not in head:
                data = await client.receive_some()
                if not data:
                    return
                head += data
            self.heads.append(head)
            wanted = b"Proxy-Authorization: Basic " + b64encode(f"anna:{SECRET}".encode())
            if self.answer or wanted not in head:
                await client.send_all(self.answer or b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
            await client.send_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
            async with await trio.open_tcp_stream("127.0.0.1", self.port) as node, trio.open_nursery() as nursery:
                nursery.start_soon(_copy, client, node, nursery.cancel_scope)
                nursery.start_soon(_copy, node, client, nursery.cancel_scope)


async def _copy(source: trio.abc.Stream, sink: trio.abc.Stream, scope: trio.CancelScope) -> None:
    try:
        while data := await source.receive_some():
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # either side may leave
    scope.cancel()


@asynccontextmanager
async def node(context: ssl.SSLContext | None) -> AsyncIterator[int]:
    listeners = await open_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(run_node, Lobby(NODE, lambda: secrets.token_bytes(16)), listeners, context)
        yield int(listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def listening(proxy: TestProxy) -> AsyncIterator[int]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, proxy.serve, listeners))
        yield int(listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def greeting(at: SignalingAt) -> Hello:
    """Call the node and knock.  Raises: Broken."""
    async with trio.open_nursery() as nursery:
        failed, hello = None, None
        try:
            conversation = await call(at, nursery)
            await conversation.send(encode(Knock(PROTOCOL_VERSION, b"n" * 16, at.address)))
            hello = decode(from_node, await conversation.receive())
            await conversation.aclose()
        except Broken as error:
            failed = error
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed
    assert isinstance(hello, Hello)
    return hello


AT = SignalingAt("wss://node.example:8765", NODE.peer_id)  # a name that only the proxy knows


async def test_the_node_is_met_through_a_proxy_with_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with node(node_context(NODE, tmp_path)) as port:
        proxy = TestProxy(port)
        async with listening(proxy) as door:
            monkeypatch.setenv("HTTPS_PROXY", URL.format(door))
            assert (await greeting(AT)).key == NODE.public
            assert (await ask_signaling("node.example")).at == AT
            assert [head.split(b"\r\n")[0] for head in proxy.heads] == [b"CONNECT node.example:8765 HTTP/1.1"] * 2
            monkeypatch.setenv("HTTPS_PROXY", f"http://anna:wrong@127.0.0.1:{door}")
            with pytest.raises(Broken, match="wants a name and a password") as raised:
                await greeting(AT)
            assert "wrong" not in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "gives no way to the node (HTTP 403)"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "wants a name and a password"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "does not speak as one"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 9000, "does not speak as one"),
        (b"HTTP/1.1 200", "does not speak as one"),
    ],
    ids=["forbidden", "password", "no proxy", "endless head", "cut"],
)
async def test_what_a_proxy_refuses_is_named(monkeypatch: pytest.MonkeyPatch, answer: bytes, why: str) -> None:
    async with listening(TestProxy(1, answer)) as door:
        monkeypatch.setenv("https_proxy", URL.format(door))
        with pytest.raises(Broken) as raised:
            await greeting(AT)
        assert why in raised.value.why
        assert SECRET not in raised.value.why
        assert "anna" not in raised.value.why


async def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(TestProxy(1)) as door:
        pass
    monkeypatch.setenv("https_proxy", URL.format(door))
    with pytest.raises(Broken, match=f"cannot connect to the proxy 127.0.0.1:{door}"):
        await greeting(AT)


# -- certificates


def authority(directory: Path, name: str, *hosts: str) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for these hosts, as a file for SSL_CERT_FILE and as a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path, pair = directory / f"{name}.pem", directory / f"{name}.pair"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pair.write_bytes(private + path.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    return path, context


async def test_ssl_cert_file_asks_for_a_certificate_of_its_authorities_or_of_the_pinned_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public, context = authority(tmp_path, "public", "localhost")
    strange, _ = authority(tmp_path, "strange", "localhost")
    _, misnamed = authority(tmp_path, "misnamed", "elsewhere.example")
    async with node(context) as port, node(misnamed) as other, node(node_context(NODE, tmp_path)) as own:
        at = SignalingAt(f"wss://localhost:{port}", NODE.peer_id)
        assert await greeting(at)  # nobody asked: who the node is, its signature says
        monkeypatch.setenv("SSL_CERT_FILE", str(public))
        assert await greeting(at)
        assert await greeting(SignalingAt(f"wss://localhost:{own}", NODE.peer_id))
        assert (await ask_signaling(f"localhost:{own}")).at.key == NODE.peer_id
        with pytest.raises(Broken, match="neither of its pinned key nor of an authority in SSL_CERT_FILE"):
            await greeting(SignalingAt(f"wss://localhost:{other}", NODE.peer_id))
        with pytest.raises(Broken, match="neither of its pinned key"):  # somebody with a key of its own in the way
            await greeting(SignalingAt(f"wss://localhost:{own}", OTHER.peer_id))
        monkeypatch.setenv("SSL_CERT_FILE", str(strange))
        with pytest.raises(Broken, match="put its authority there, or unset SSL_CERT_FILE"):
            await greeting(at)


async def test_a_proxy_that_speaks_tls_proves_itself_by_its_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public, context = authority(tmp_path, "public", "localhost")
    async with node(node_context(NODE, tmp_path)) as port, listening(TestProxy(port, context=context)) as door:
        monkeypatch.setenv("HTTPS_PROXY", f"https://anna:pass%3Aw%40rd@localhost:{door}")
        with pytest.raises(Broken, match=rf"the proxy localhost:{door}: .*certificate") as raised:
            await greeting(AT)
        assert SECRET not in raised.value.why
        monkeypatch.setenv("SSL_CERT_FILE", str(public))
        assert (await greeting(AT)).key == NODE.public

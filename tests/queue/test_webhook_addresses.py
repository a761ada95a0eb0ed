"""Webhooks go to public addresses only, and over TLS only to the host that was named."""

import asyncio
import contextlib
import datetime
import ssl

import pytest

from inferd.services.net.public_address import AddressNotAllowed, check_url
from inferd.services.queue.webhook_sender import DeliveryResult
from tests.doubles.fake_network import Connections, Names
from tests.queue.webhook_receiver import (
    BODY,
    KEY,
    OK,
    post,
    receiving,
    sending,
)

PRIVATE_HOSTS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0X7F.0.0.0x1",
    "017700000001",
    "0177.1",
    "127。0。0。1",
    "0",
    "0.0.0.0",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "hook.localhost",
    "10.0.0.5",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "0xa9fea9fe",
    "168.63.129.16",
    "192.0.0.192",
    "224.0.0.1",
    "255.255.255.255",
    "[::]",
    "[::1]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fec0::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
]


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
async def test_private_hosts_are_refused_in_any_spelling(host):
    async with receiving() as receiver:
        names = Names(["127.0.0.1"])
        connections = Connections(receiver.port)
        with pytest.raises(AddressNotAllowed, match="private"):
            check_url(receiver.url(host), allow_private=False)
        outcome = await post(receiver.url(host), allow_private=False)
        assert (outcome.status, outcome.final) == (None, False)
        assert outcome.error is not None
        assert outcome.error.endswith("private ones are not allowed") or "localhost" in host.lower()
        assert receiver.connections == 0
    assert connections.made == []
    assert names.asked == []


@pytest.mark.parametrize(
    "addresses", [["10.0.0.5"], ["8.8.8.8", "10.0.0.5"], ["10.0.0.5", "2606:4700:4700::1111"]]
)
async def test_a_name_with_any_private_address_is_refused(addresses):
    names = Names(addresses)
    connections = Connections()
    check_url("http://hooks.example/", allow_private=False)
    outcome = await post("http://hooks.example/", allow_private=False)
    assert outcome == DeliveryResult(
        None, "the host's address 10.0.0.5 is not public, and private ones are not allowed"
    )
    assert names.asked == ["hooks.example"]
    assert connections.made == []


async def test_the_system_s_own_spellings_are_refused_where_they_are_looked_up(monkeypatch):
    """What the check of the URL may one day not know is still seen in what it resolves to."""
    monkeypatch.setattr("inferd.services.net.public_address._literal", lambda host: None)
    async with receiving() as receiver:
        outcome = await post(receiver.url("2130706433"), allow_private=False)
        assert receiver.connections == 0
    assert outcome.error is not None
    assert outcome.error.startswith("the host's address 127.0.0.1 is not public")


async def test_the_address_that_was_checked_is_connected_to():
    async with receiving() as receiver:
        names = Names(["8.8.8.8"], ["127.0.0.1"])
        connections = Connections(receiver.port)
        async with sending(allow_private=False) as sender:
            assert await sender.send("http://Hooks.example/", KEY, "msg_1", BODY) == DeliveryResult(200, None)
            assert names.asked == ["hooks.example"]
            assert connections.made == ["8.8.8.8"]
            assert receiver.received[0].headers["host"] == "hooks.example"
            # The next try asks anew, and is refused.
            outcome = await sender.send("http://hooks.example/", KEY, "msg_1", BODY)
        assert outcome.error is not None
        assert outcome.error.startswith("the host's address 127.0.0.1 is not public")
        assert receiver.connections == 1
    assert connections.made == ["8.8.8.8"]


async def test_the_best_address_of_each_family_is_tried():
    Names(["2606:4700:4700::1111", "2606:4700:4700::1001", "8.8.8.8", "8.8.4.4"])
    connections = Connections()
    outcome = await post("http://hooks.example/", allow_private=False)
    assert outcome == DeliveryResult(None, "connection refused")
    assert connections.made == ["2606:4700:4700::1111", "8.8.8.8"]


async def test_where_one_family_fails_the_other_is_tried():
    async with receiving() as receiver:
        Names(["::1", "127.0.0.1"])
        assert await post(receiver.url("hooks.example")) == DeliveryResult(200, None)


async def test_ipv6_hosts_are_posted_to():
    async with contextlib.AsyncExitStack() as stack:
        try:
            receiver = await stack.enter_async_context(receiving(host="::1"))
        except OSError:
            pytest.skip("there is no IPv6 here")
        assert await post(receiver.url("[::1]")) == DeliveryResult(200, None)
        assert receiver.received[0].headers["host"] == f"[::1]:{receiver.port}"


@pytest.fixture
def certificate(tmp_path):
    """Writes a self-signed certificate for hooks.example, which certifies itself, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hooks.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def server_context(certificate, names: list[str]) -> ssl.SSLContext:
    """A server's TLS, which appends the names it is asked for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda connection, name, context: names.append(name)
    return context


async def test_the_certificate_is_checked_against_the_name(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    asked: list[str] = []
    async with receiving(tls=server_context(certificate, asked)) as receiver:
        Names(["8.8.8.8"])
        connections = Connections(receiver.port)
        url = receiver.url("hooks.example", "https")
        assert await post(url, allow_private=False) == DeliveryResult(200, None)
        assert receiver.received[0].headers["host"] == f"hooks.example:{receiver.port}"

        outcome = await post(receiver.url("other.example", "https"), allow_private=False)
        assert outcome.status is None
        assert outcome.error is not None
        assert outcome.error.startswith("TLS: certificate verify failed: Hostname mismatch")
        assert len(receiver.received) == 1
    assert connections.made == ["8.8.8.8", "8.8.8.8"]
    assert asked == ["hooks.example", "other.example"]


async def test_a_certificate_of_nobody_known_is_refused(certificate):
    async with receiving(tls=server_context(certificate, [])) as receiver:
        Names(["127.0.0.1"])
        outcome = await post(receiver.url("hooks.example", "https"))
        assert receiver.received == []
    assert outcome == DeliveryResult(None, "TLS: certificate verify failed: self-signed certificate")


async def test_tls_with_what_speaks_none():
    async def answer(reader, writer):
        await reader.read(1)
        writer.write(OK)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        outcome = await post(f"https://127.0.0.1:{port}/")
    assert outcome.error is not None
    assert outcome.error.startswith("TLS: ")


async def test_a_handshake_that_hangs_is_cut_and_its_connection_closed():
    left = asyncio.Event()

    async def hang(reader, writer):
        with contextlib.suppress(ConnectionError):
            await reader.read()
        left.set()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        outcome = await post(f"https://127.0.0.1:{port}/", timeout=0.2)
        assert outcome == DeliveryResult(None, "timed out after 0.2 s")
        await left.wait()

"""Webhooks as they are posted: signed, bounded, and never into a private network."""

import asyncio
import base64
import contextlib
import datetime
import hashlib
import hmac
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import format_datetime
from ipaddress import ip_address

import pytest
from inferd.services.net.public_address import AddressNotAllowed, check_url, is_public
from inferd.services.net.webhook_signature import parse_secret, signature_headers
from inferd.services.queue.webhook_sender import MAX_ATTEMPTS, DeliveryResult, WebhookSender, retry_delay

from tests.doubles.fake_network import Connections, Names

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
BODY = '{"type": "chat.completion.succeeded", "data": {"text": "né"}}'.encode()
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Received:
    """A request, as a receiver got it."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A server that answers each request by `answer`, and remembers it."""

    answer: Answer
    port: int = 0
    connections: int = 0
    received: list[Received] = field(default_factory=list)
    #: Set when a sender has closed its connection, or lost it.
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/hook?a=b%20c"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        # The sender may leave at any time: that is what some tests are about.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = [line.split(": ", 1) for line in head[1:] if line]
            headers = {name.lower(): value for name, value in pairs}
            body = await reader.readexactly(int(headers["content-length"]))
            self.received.append(Received(head[0], headers, body))
            await self.answer(reader, writer)
        self.left.set()
        writer.close()


def replies(reply: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()

    return answer


def status(line: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {line}", *headers, "content-length: 0", "", ""]).encode()


@contextlib.asynccontextmanager
async def receiving(
    answer: bytes | Answer = OK,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Receiver]:
    receiver = Receiver(replies(answer) if isinstance(answer, bytes) else answer)
    server = await asyncio.start_server(receiver.serve, host, 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver


@contextlib.asynccontextmanager
async def sending(*, allow_private: bool = True, timeout: float = 15) -> AsyncIterator[WebhookSender]:  # noqa: ASYNC109
    sender = WebhookSender(allow_private=allow_private, timeout=timeout)
    yield sender
    await sender.close()


async def post(url: str, *, allow_private: bool = True, timeout: float = 15) -> DeliveryResult:  # noqa: ASYNC109
    async with sending(allow_private=allow_private, timeout=timeout) as sender:
        return await sender.send(url, KEY, "msg_1", BODY)


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says nothing until the sender leaves."""
    await reader.read()


# Signatures.


def test_signs_the_example_of_standard_webhooks():
    headers = signature_headers(
        parse_secret(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("size", [24, 64])
def test_a_secret_has_24_to_64_bytes(size):
    assert parse_secret("whsec_" + base64.b64encode(bytes(size)).decode()) == bytes(size)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2La-_Sw",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSé",
    ],
)
def test_other_secrets_are_refused_and_not_repeated(secret):
    with pytest.raises(ValueError, match='must be "whsec_" and the base64 of 24 to 64 bytes') as caught:
        parse_secret(secret)
    assert "MfKQ" not in str(caught.value)


# What is posted, and what comes of the answer.


async def test_posts_the_body_signed(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with receiving() as receiver:
        assert await post(receiver.url()) == DeliveryResult(200, None)
    (request,) = receiver.received
    assert request.line == "POST /hook?a=b%20c HTTP/1.1"
    assert request.body == BODY
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == "inferd"
    assert request.headers["webhook-id"] == "msg_1"
    signed = b"msg_1." + request.headers["webhook-timestamp"].encode() + b"." + BODY
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == "v1," + expected


async def test_each_try_has_its_own_time_and_the_same_id_and_no_cookies(monkeypatch):
    times = iter([1000.9, 2000.9])
    monkeypatch.setattr("inferd.services.queue.webhook_sender.time.time", lambda: next(times))
    async with receiving(status("500 Oops", "set-cookie: a=b")) as receiver, sending() as sender:
        for _ in range(2):
            outcome = await sender.send(receiver.url(), KEY, "msg_1", BODY)
            assert outcome == DeliveryResult(500, "answered with status 500")
            assert not outcome.delivered
    first, second = receiver.received
    assert (first.headers["webhook-timestamp"], second.headers["webhook-timestamp"]) == ("1000", "2000")
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    assert "cookie" not in second.headers


@pytest.mark.parametrize("line", ["200 OK", "202 Accepted", "204 No Content"])
async def test_any_2xx_is_a_delivery(line):
    async with receiving(status(line)) as receiver:
        outcome = await post(receiver.url())
    assert outcome.delivered
    assert outcome.status == int(line[:3])


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(code):
    async with receiving() as other:
        async with receiving(status(f"{code} Moved", f"location: {other.url()}")) as receiver:
            assert await post(receiver.url()) == DeliveryResult(code, "redirects are not followed")
        assert other.connections == 0


async def test_gone_is_final():
    async with receiving(status("410 Gone")) as receiver:
        outcome = await post(receiver.url())
    assert outcome == DeliveryResult(410, "answered with status 410 (gone)", final=True)


@pytest.mark.parametrize(
    ("line", "value", "expected"),
    [
        ("429 Slow down", "120", 120),
        ("503 Busy", "0", 0),
        ("503 Busy", "9" * 400, 86400),
        ("503 Busy", "Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("503 Busy", "Sun Nov  6 08:49:37 1994", 0),
        ("503 Busy", "Sun, 06 Nov 9994 08:49:37 GMT", 86400),
        ("503 Busy", "soon", None),
        ("503 Busy", "-5", None),
        ("503 Busy", "²", None),
        ("503 Busy", "Sun, 06 Nov 1994 08:49:37 +99999999999", None),
        ("500 Oops", "120", None),
    ],
)
async def test_retry_after(line, value, expected):
    async with receiving(status(line, f"Retry-After: {value}")) as receiver:
        outcome = await post(receiver.url())
    assert outcome == DeliveryResult(int(line[:3]), f"answered with status {line[:3]}", retry_after=expected)


async def test_retry_after_as_a_date_to_come():
    date = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    async with receiving(status("429 Slow down", f"retry-after: {format_datetime(date, True)}")) as receiver:
        outcome = await post(receiver.url())
    assert outcome.retry_after is not None
    assert 0 < outcome.retry_after <= 3600


async def test_silence_is_a_failed_try():
    async with receiving(silence) as receiver:
        assert await post(receiver.url(), timeout=0.2) == DeliveryResult(None, "timed out after 0.2 s")
        await receiver.left.wait()


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
async def test_an_answer_that_drips_is_a_failed_try(start):
    async def drip(reader, writer):
        writer.write(start or b"HTTP/1.1 200 ")
        while not writer.is_closing():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" if start.endswith(b"\r\n\r\n") else b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with receiving(drip) as receiver:
        assert await post(receiver.url(), timeout=0.2) == DeliveryResult(None, "timed out after 0.2 s")
        await receiver.left.wait()


async def test_a_status_counts_though_its_body_never_ends():
    async def hang(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx")
        await reader.read()

    async with receiving(hang) as receiver:
        assert await post(receiver.url(), timeout=0.5) == DeliveryResult(200, None)
        await receiver.left.wait()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n",
    ],
)
async def test_of_a_huge_answer_little_is_read(head):
    async def flood(reader, writer):
        writer.write(head)
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()

    async with receiving(flood) as receiver:
        assert await post(receiver.url()) == DeliveryResult(200, None)
        await receiver.left.wait()


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"HTTP/1.1 200 OK\r\nx" + b"y" * 200_000]
)
async def test_what_is_no_http_is_a_failed_try(answer):
    async with receiving(answer) as receiver:
        assert await post(receiver.url()) == DeliveryResult(None, "no valid HTTP answer")


async def test_a_refused_connection_is_a_failed_try():
    async with receiving() as receiver:
        pass
    assert await post(receiver.url()) == DeliveryResult(None, "connection refused")


async def test_a_name_that_does_not_exist_is_a_failed_try(monkeypatch):
    async def fail(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    expected = DeliveryResult(None, "the host's name cannot be resolved")
    assert await post("http://nowhere.example/hook") == expected


async def test_whatever_else_goes_wrong_is_a_failed_try(monkeypatch, caplog):
    async def fail(*args, **options):
        raise RuntimeError("with a secret")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    assert await post("http://nowhere.example/hook") == DeliveryResult(None, "cannot be posted")
    assert "webhook msg_1: cannot be posted" in caplog.text


async def test_cancelling_closes_the_connection():
    async with receiving(silence) as receiver, sending() as sender:
        task = asyncio.create_task(sender.send(receiver.url(), KEY, "msg_1", BODY))
        while not receiver.received:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await receiver.left.wait()


async def test_closing_ends_what_runs():
    async with receiving(silence) as receiver, sending() as sender:
        task = asyncio.create_task(sender.send(receiver.url(), KEY, "msg_1", BODY))
        while not receiver.received:
            await asyncio.sleep(0.01)
        await sender.close()
        assert await task == DeliveryResult(None, "the server stopped")
        assert await sender.send(receiver.url(), KEY, "msg_1", BODY) == DeliveryResult(
            None, "the server stopped"
        )
        assert receiver.connections == 1


async def test_connections_are_bounded(monkeypatch):
    monkeypatch.setattr("inferd.services.queue.webhook_sender._MAX_CONNECTIONS", 2)
    now, most = 0, 0

    async def count(reader, writer):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        writer.write(OK)

    async with receiving(count) as receiver, sending() as sender:
        tries = [sender.send(receiver.url(), KEY, f"msg_{number}", BODY) for number in range(8)]
        assert [outcome.delivered for outcome in await asyncio.gather(*tries)] == [True] * 8
    assert most == 2


def test_delays_grow():
    tries = range(1, MAX_ATTEMPTS)
    bounds = [5, 30, 120, 600, 1800, 3600, 7200, 18000, 36000]
    for _ in range(100):
        for attempt, delay in zip(tries, bounds, strict=True):
            assert 0.8 * delay <= retry_delay(attempt) <= 1.2 * delay
        assert retry_delay(1000) <= 1.2 * 36000
    assert retry_delay(5) != retry_delay(5)


# Which addresses are posted to.


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://example.com:8080/hook?token=a%2Fb",
        "https://EXAMPLE.com./",
        "https://bücher.example/",
        "http://my_service.example/",
        "http://8.8.8.8/",
        "http://[2606:4700:4700::1111]:443/",
    ],
)
def test_urls_that_are_allowed(url):
    check_url(url, allow_private=False)
    check_url(url, allow_private=True)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "must begin with http"),
        ("example.com/hook", "must begin with http"),
        ("//example.com/hook", "must begin with http"),
        ("ftp://example.com/", "must begin with http"),
        ("file:///etc/passwd", "must begin with http"),
        (" http://example.com/", "URL"),
        ("http://", "no host"),
        ("http:/hook", "no host"),
        ("http://:80/", "no host"),
        ("http://user@example.com/", "must not have a user name"),
        ("http://user:password@example.com/", "must not have a user name"),
        ("http://example.com\\@127.0.0.1/", "must not have a user name"),
        ("http://example.com/#part", "must not have a fragment"),
        ("http://example.com/#", "must not have a fragment"),
        ("http://example.com:0/", "port"),
        ("http://example.com:65536/", "port"),
        ("http://example.com:http/", "not valid"),
        ("http://exam ple.com/", "host is not valid"),
        ("http://127%2e0.0.1/", "host is not valid"),
        ("http://a..b/", "host is not valid"),
        (f"http://{'a' * 64}.example/", "host is not valid"),
        ("http://127.0.0.256/", "not valid"),
        ("http://[::1/", "not valid"),
        ("http://example.com/\r\nx: y", "not valid"),
        ("http://\uff11\uff12\uff17.0.0.1/", "not valid"),
    ],
)
@pytest.mark.parametrize("allow_private", [False, True])
def test_urls_that_are_not_valid(url, message, allow_private):
    with pytest.raises(AddressNotAllowed, match=message):
        check_url(url, allow_private=allow_private)


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


@pytest.mark.parametrize("address", ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2606:4700:4700::1111"])
def test_public_addresses(address):
    assert is_public(ip_address(address))


# TLS.


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

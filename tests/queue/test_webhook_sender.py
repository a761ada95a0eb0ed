"""Webhooks as they are posted: signed, bounded in time and size, and what each answer means."""

import asyncio
import base64
import datetime
import hashlib
import hmac
import socket
from email.utils import format_datetime

import pytest

from inferd.services.queue.webhook_sender import MAX_ATTEMPTS, DeliveryResult, retry_delay
from tests.queue.webhook_receiver import (
    BODY,
    KEY,
    OK,
    post,
    receiving,
    sending,
    silence,
    status,
)


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

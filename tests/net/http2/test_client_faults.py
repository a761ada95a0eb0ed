"""The gRPC client against raw frames: peers that break the protocol, leave or fall silent."""

import asyncio
import itertools

import pytest
from h2.errors import ErrorCodes

from inferd.services.net.http2 import connection as http2_connection
from inferd.services.net.http2.frames import (
    ACK,
    DATA,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    frame_bytes,
)
from inferd.services.net.http2.framing import frame
from tests.support.http2_peer import (
    ANSWER,
    BODY,
    END_HEADERS,
    INITIAL_WINDOW,
    MAX_FRAME,
    MAX_STREAMS,
    MESSAGES,
    TABLE_SIZE,
    Code,
    Peer,
    answering,
    ask,
    ask_in_vain,
    data,
    drained,
    fails,
    goaway,
    head,
    headers,
    reset,
    setting,
    talking,
    trailers,
    until,
    window_update,
    within,
)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (b"503", Code.UNAVAILABLE),
        (b"429", Code.UNAVAILABLE),
        (b"404", Code.UNIMPLEMENTED),
        (b"401", Code.UNAUTHENTICATED),
        (b"418", Code.UNKNOWN),
        (b"200", Code.UNKNOWN),
    ],
)
async def test_an_answer_that_is_not_grpcs(status, expected):
    pairs = ((b":status", status), (b"content-type", b"text/html"))
    bare = headers(1, *pairs, flags=END_HEADERS | END_STREAM)
    assert (await ask_in_vain(answering(bare))).code is expected
    if status != b"200":
        with_body = headers(1, *pairs) + data(b"<html>no</html>") + data(b"", flags=END_STREAM)
        assert (await ask_in_vain(answering(with_body))).code is expected


async def test_compressed_messages_were_not_asked_for():
    for answer in (data(frame(b"x", compressed=True)), data(b"\1\0\0") + data(b"\0\1x")):
        assert (await ask_in_vain(answering(head() + answer + trailers()))).code is Code.INTERNAL
    assert (await ask_in_vain(answering(head() + data(b"\2\0\0\0\1x")))).code is Code.INTERNAL


async def test_a_message_over_the_limit():
    limit = 100_000
    async with talking(
        answering(head() + data(b"\0" + (limit + 1).to_bytes(4, "big"))), max_message_bytes=limit
    ) as channel:
        error = await fails(drained(await channel.start("/t.T/Any", b"")))
    assert error.code is Code.RESOURCE_EXHAUSTED and str(limit) in error.details
    parts = [frame(bytes(limit))[start : start + 16384] for start in range(0, limit + 5, 16384)]
    answer = [head(), *map(data, parts), trailers()]
    assert await ask(answering(*answer), max_message_bytes=limit) == [bytes(limit)]


async def test_a_last_message_that_is_incomplete():
    error = await ask_in_vain(answering(head() + data(BODY[:-1]) + trailers()))
    assert error.code is Code.INTERNAL


@pytest.mark.parametrize("length", [3, 9, 30, len(ANSWER) - 1])
async def test_a_connection_that_is_lost_midway(length):
    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        peer.say(ANSWER[:length])

    assert (await ask_in_vain(talk)).code is Code.UNAVAILABLE


async def test_pings_are_answered():
    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        peer.say(frame_bytes(PING, 0, 0, b"01234567"))
        assert (await peer.until(PING))[1:] == (ACK, 0, b"01234567")
        peer.say(ANSWER)
        await peer.closed()

    assert await ask(talk) == MESSAGES


async def test_a_server_that_answers_pings_may_be_silent(monkeypatch):
    monkeypatch.setattr(http2_connection, "PING_TIMEOUT", 1.0)

    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        for _ in range(2):
            _, flags, _, payload = await peer.until(PING)
            assert flags == 0
            peer.say(frame_bytes(PING, ACK, 0, payload))
        peer.say(ANSWER)
        await peer.closed()

    assert await ask(talk, quiet_seconds=0.05) == MESSAGES


async def test_a_server_that_answers_no_ping_is_gone(monkeypatch):
    monkeypatch.setattr(http2_connection, "PING_TIMEOUT", 0.05)
    error = await ask_in_vain(answering(head()), quiet_seconds=0.05)
    assert error.code is Code.UNAVAILABLE


async def test_a_goaway_refuses_later_calls():
    begun = asyncio.Event()
    connections = itertools.count()

    async def talk(peer: Peer) -> None:
        await peer.greet()
        if next(connections):
            await peer.request()
            peer.say(ANSWER)
            await peer.closed()
            return
        for _ in range(3):
            await peer.request()
        peer.say(head(), data(frame(b"one")), goaway(3))
        await begun.wait()
        peer.say(data(frame(b"two")), trailers(), head(3), trailers(3, b"5"))
        await peer.closed()

    async with talking(talk) as channel:
        calls = [await channel.start("/t.T/Any", b"") for _ in range(3)]
        assert (await fails(calls[2].read())).code is Code.UNAVAILABLE
        assert await within(calls[0].read()) == [b"one"]
        # Another connection takes what comes now.
        assert await drained(await channel.start("/t.T/Any", b"")) == MESSAGES
        begun.set()
        assert await drained(calls[0]) == [b"two"]
        assert (await fails(calls[1].read())).code is Code.NOT_FOUND


async def test_a_goaway_to_an_idle_connection_closes_it():
    connections = itertools.count()

    async def talk(peer: Peer) -> None:
        next(connections)
        await peer.greet()
        await peer.request()
        peer.say(ANSWER, goaway(1))
        await peer.closed()

    async with talking(talk) as channel:
        for _ in range(3):
            assert await drained(await channel.start("/t.T/Any", b"")) == MESSAGES
    assert next(connections) == 3


async def test_a_server_may_limit_the_calls_of_a_connection():
    open_calls: list[int] = []
    go_on = asyncio.Event()

    async def talk(peer: Peer) -> None:
        number = len(open_calls)
        open_calls.append(0)
        await peer.greet((MAX_STREAMS, 2))
        if not number:
            await peer.request()
            peer.say(ANSWER)
        streams = []
        for _ in range(2 if not number else 1):
            streams.append((await peer.request())[0])
            open_calls[number] += 1
        await go_on.wait()
        for stream in streams:
            peer.say(head(stream), trailers(stream))
        await peer.closed()

    async with talking(talk) as channel:
        assert await drained(await channel.start("/t.T/Any", b"")) == MESSAGES
        calls = [await channel.start("/t.T/Any", b"") for _ in range(3)]
        await until(lambda: open_calls == [2, 1])
        go_on.set()
        for call in calls:
            assert await drained(call) == []


async def test_settings_change_what_may_be_sent():
    async def talk(peer: Peer) -> None:
        await peer.greet((INITIAL_WINDOW, 10), (TABLE_SIZE, 0), (MAX_FRAME, 20_000))
        await peer.request()
        # The first header block after the table may be smaller says that it is empty.
        assert next(seen[3] for seen in peer.seen if seen[0] == HEADERS)[:1] == b"\x20"
        peer.say(ANSWER)
        # A second call: five bytes of prefix, and five more.
        _, _, stream, _ = await peer.until(HEADERS)
        assert (await peer.until(DATA))[3] == frame(body)[:10]
        # Less than nothing, and then something again.
        peer.say(setting((INITIAL_WINDOW, 4)), window_update(stream, 5))
        await peer.synced()
        peer.say(window_update(stream, 2))
        assert (await peer.until(DATA))[3] == frame(body)[10:11]
        peer.say(setting((INITIAL_WINDOW, 30_004)))
        sent = frame(body)[:11]
        while len(sent) < 30_011:
            _, _, _, payload = await peer.until(DATA)
            assert len(payload) <= 20_000
            sent += payload
        assert max(len(seen[3]) for seen in peer.seen) == 20_000
        # What the streams have, the connection has not.
        peer.say(window_update(stream, 200_000))
        connection = 65535 - len(sent) - len(frame(b""))
        while connection:
            _, _, _, payload = await peer.until(DATA)
            connection -= len(payload)
            sent += payload
        await peer.synced()
        peer.say(window_update(0, 200_000))
        while len(sent) < len(frame(body)):
            _, flags, _, payload = await peer.until(DATA)
            sent += payload
        assert flags & END_STREAM and sent == frame(body)
        peer.say(head(stream), trailers(stream))
        await peer.closed()

    body = bytes(range(256)) * 400
    async with talking(talk) as channel:
        assert await drained(await channel.start("/t.T/Any", b"")) == MESSAGES
        assert await drained(await within(channel.start("/t.T/Any", body))) == []


async def test_an_answer_before_the_whole_request():
    """As of a server that refuses it."""

    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.until(HEADERS)
        await peer.until(DATA)
        peer.say(headers(1, (b":status", b"200"), (b"grpc-status", b"8"), flags=END_HEADERS | END_STREAM))
        peer.say(reset(ErrorCodes.NO_ERROR))
        # What is left of that request is not sent: the next one uses the room.
        stream = (await peer.until(HEADERS))[2]
        peer.say(window_update(0, 5))
        await peer.until(DATA, stream=stream, flags=END_STREAM)
        peer.say(head(stream), trailers(stream))
        await peer.closed()

    async with talking(talk) as channel:
        call = await within(channel.start("/t.T/Any", bytes(1 << 20)))
        assert (await fails(call.read())).code is Code.RESOURCE_EXHAUSTED
        assert await drained(await within(channel.start("/t.T/Any", b""))) == []


async def test_a_start_that_is_given_up_ends_the_call():
    async def talk(peer: Peer) -> None:
        await peer.greet((INITIAL_WINDOW, 0))
        stuck.set()
        assert (await peer.until(RST_STREAM, stream=1))[3] == ErrorCodes.CANCEL.to_bytes(4, "big")
        await peer.closed()

    stuck = asyncio.Event()
    async with talking(talk) as channel:
        starting = asyncio.create_task(channel.start("/t.T/Any", bytes(1 << 20)))
        await within(stuck.wait())
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

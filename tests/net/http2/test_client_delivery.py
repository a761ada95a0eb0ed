"""The gRPC client pushes messages to a receiver, however the connection's bytes are cut."""

import asyncio
import itertools

import pytest
from h2.errors import ErrorCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.services.net.flow import Flow
from inferd.services.net.http2.client_call import CallFailed
from inferd.services.net.http2.client_connection import STREAM_WINDOW, ClientConnection
from inferd.services.net.http2.frames import (
    PING,
    RST_STREAM,
    WINDOW_UPDATE,
    frame_bytes,
)
from inferd.services.net.http2.framing import frame
from inferd.services.net.http2.header_block import header_block
from tests.support.http2_peer import (
    BODY,
    INITIAL_WINDOW,
    MESSAGES,
    PADDED,
    Code,
    Peer,
    Receiver,
    data,
    drained,
    head,
    padded,
    reset,
    setting,
    talking,
    trailers,
    window_update,
    within,
)


async def test_a_server_may_send_no_more_than_is_read():
    go_on = asyncio.Event()
    part = data(frame(bytes(1019)))
    half = STREAM_WINDOW // 1024 // 2

    async def talk(peer: Peer) -> None:
        await peer.greet()
        payload = peer.seen[0][3]
        names = [
            (payload[start : start + 2], payload[start + 2 : start + 6])
            for start in range(0, len(payload), 6)
        ]
        asked = {int.from_bytes(name, "big"): int.from_bytes(value, "big") for name, value in names}
        assert asked[INITIAL_WINDOW] == STREAM_WINDOW
        await peer.request()
        peer.say(head(), part * 2 * half)
        await peer.synced()
        assert not any(seen[0] == WINDOW_UPDATE and seen[2] == 1 for seen in peer.seen)
        go_on.set()
        room = 0
        while room < STREAM_WINDOW:
            room += int.from_bytes((await peer.until(WINDOW_UPDATE, stream=1))[3], "big")
        assert room == STREAM_WINDOW
        peer.say(part * 2 * half, trailers())
        await peer.closed()

    async with talking(talk) as channel:
        call = await channel.start("/t.T/Any", b"")
        await within(go_on.wait())
        read = 0
        while read < 2 * half:
            read += len(await within(call.read()))
        assert read == 2 * half
        assert len(await drained(call)) == 2 * half


async def test_messages_that_came_together_are_read_together():
    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        peer.say(head() + b"".join(data(frame(message)) for message in MESSAGES) + data(BODY))
        await peer.synced()
        read_on.set()
        peer.say(trailers())
        await peer.closed()

    read_on = asyncio.Event()
    async with talking(talk) as channel:
        call = await channel.start("/t.T/Any", b"")
        await within(read_on.wait())
        assert await within(call.read()) == MESSAGES * 2
        assert await within(call.read()) == []


async def test_messages_are_pushed_as_they_come():
    received: list[bytes] = []
    read_on = asyncio.Event()
    more = 5 * STREAM_WINDOW // 1024

    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        peer.say(head(), data(frame(b"-1")))
        await peer.synced()
        read_on.set()
        # Past the window: messages that are received make room.
        window = STREAM_WINDOW - 10
        for number in range(more):
            while window < 1024:
                window += int.from_bytes((await peer.until(WINDOW_UPDATE, stream=1))[3], "big")
            peer.say(data(frame(b"%1019d" % number)))
            await peer.writer.drain()
            window -= 1024
        peer.say(trailers())
        await peer.closed()

    async with talking(talk) as channel:
        call = await channel.start("/t.T/Any", b"")
        receiver = Receiver(lambda message: received.append(message) or True)
        await within(read_on.wait())
        await within(call.deliver(receiver, Flow()))
        assert [int(message) for message in received] == list(range(-1, more))
        # Only the message that came before anybody asked had to wait.
        assert receiver.waited < more // 2


async def test_a_paused_flow_holds_messages_back_and_loses_none():
    received: list[bytes] = []
    flow = Flow()
    arrived = asyncio.Event()
    count = 3 * STREAM_WINDOW // 1024
    sent = 0

    async def talk(peer: Peer) -> None:
        nonlocal sent
        await peer.greet()
        await peer.request()
        peer.say(head())
        window = STREAM_WINDOW
        for number in range(count):
            while window < 1024:
                arrived.set()
                window += int.from_bytes((await peer.until(WINDOW_UPDATE, stream=1))[3], "big")
            peer.say(data(frame(b"%1019d" % number)))
            await peer.writer.drain()
            window -= 1024
            sent += 1
        peer.say(trailers())
        await peer.closed()

    def receive(message: bytes) -> bool:
        received.append(message)
        if len(received) == 10:
            flow.pause()
        return True

    async with talking(talk) as channel:
        call = await channel.start("/t.T/Any", b"")
        delivering = asyncio.create_task(call.deliver(Receiver(receive), flow))
        await within(arrived.wait())
        await asyncio.sleep(0.1)
        # The peer has used up the window, and nothing opens it again.
        assert (len(received), sent) == (10, STREAM_WINDOW // 1024)
        flow.resume()
        await within(delivering)
    assert [int(message) for message in received] == list(range(count))


async def test_a_receiver_that_wants_no_more_ends_the_delivery():
    received: list[bytes] = []

    def receive(message: bytes) -> bool:
        received.append(message)
        return message != b"3"

    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        peer.say(head(), *(data(frame(b"%d" % number)) for number in range(10)))
        assert (await peer.until(RST_STREAM))[2] == 1
        await peer.closed()

    async with talking(talk) as channel:
        call = await channel.start("/t.T/Any", b"")
        await within(call.deliver(Receiver(receive), Flow()))
        assert received == [b"0", b"1", b"2", b"3"]
        call.cancel()


async def test_a_receivers_exception_is_raised_by_its_own_delivery():
    class Broken(Exception):
        pass

    def receive(message: bytes) -> bool:
        if message == b"2":
            raise Broken
        return True

    async def talk(peer: Peer) -> None:
        await peer.greet()
        one, two = (await peer.request())[0], (await peer.request())[0]
        peer.say(*(head(stream) for stream in (one, two)))
        await peer.synced()
        for number in range(5):
            for stream in (one, two):
                peer.say(data(frame(b"%d" % number), stream))
            await peer.writer.drain()
            await asyncio.sleep(0.01)
        assert (await peer.until(RST_STREAM))[2] == one
        peer.say(trailers(two))
        await peer.closed()

    async with talking(talk) as channel:
        broken, well = [await channel.start("/t.T/Any", b"") for _ in range(2)]
        with pytest.raises(Broken):
            await within(broken.deliver(Receiver(receive), Flow()))
        broken.cancel()
        assert await drained(well) == [b"%d" % number for number in range(5)]


class Transport:
    """Takes what a connection writes."""

    def __init__(self) -> None:
        self.is_closed = False

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close


async def received(pieces: list[bytes], pushes: bool) -> tuple[list[list[bytes]], list[object]]:
    """What three calls get of these pieces of a connection's bytes: messages, and ends."""
    connection = ClientConnection(
        max_message_bytes=1 << 20, max_header_bytes=1 << 16, quiet_seconds=60, on_lost=lambda: None
    )
    connection.connection_made(Transport())
    calls = [await connection.start(header_block([(b":path", b"/x")]), b"") for _ in range(3)]
    got: list[list[bytes]] = [[] for _ in calls]
    ends: list[object] = [None] * len(calls)

    async def read(index: int) -> None:
        call = calls[index]
        try:
            if pushes:
                receiver = Receiver(lambda message: got[index].append(message) or True)
                await call.deliver(receiver, Flow())
            else:
                while messages := await call.read():
                    got[index] += messages
            ends[index] = "OK"
        except CallFailed as error:
            ends[index] = (error.code, error.details)

    readers = [asyncio.create_task(read(index)) for index in range(len(calls))]
    await asyncio.sleep(0)
    for piece in pieces:
        connection.data_received(piece)
        await asyncio.sleep(0)
    connection.connection_lost(None)
    await within(asyncio.gather(*readers))
    return got, ends


@st.composite
def conversations(draw) -> tuple[bytes, list[list[bytes]], list[object]]:
    """Bytes of a server, what three calls are to get of them, and how they are to end."""
    streams: list[list[bytes]] = []
    expected: list[list[bytes]] = []
    ends: list[object] = []
    for stream in (1, 3, 5):
        messages = draw(st.lists(st.binary(max_size=40) | st.just(bytes(20_000)), max_size=6))
        body = b"".join(map(frame, messages))
        frames = [head(stream)]
        while body:
            size = draw(st.sampled_from([1, 2, 5, 6, 30, 4000, 16384]))
            part, body = body[:size], body[size:]
            if len(part) < 200 and draw(st.booleans()):
                frames.append(data(padded(part, draw(st.integers(0, 20))), stream, PADDED))
            else:
                frames.append(data(part, stream))
        end = draw(st.sampled_from(["ok", "error", "reset", "lost"]))
        if end == "ok":
            frames.append(trailers(stream))
            ends.append("OK")
        elif end == "error":
            frames.append(trailers(stream, b"9", (b"grpc-message", b"late")))
            ends.append((Code.FAILED_PRECONDITION, "late"))
        elif end == "reset":
            frames.append(reset(ErrorCodes.ENHANCE_YOUR_CALM, stream))
            ends.append((Code.RESOURCE_EXHAUSTED, "the stream was reset with HTTP/2 error 11"))
        else:
            ends.append((Code.UNAVAILABLE, "the connection was closed"))
        streams.append(frames)
        expected.append(messages)
    others = [frame_bytes(PING, 0, 0, bytes(8)), setting((INITIAL_WINDOW, 1000)), window_update(0, 9)]
    streams.append(draw(st.lists(st.sampled_from(others), max_size=4)))
    mixed = []
    while any(streams):
        mixed.append(draw(st.sampled_from([frames for frames in streams if frames])).pop(0))
    return b"".join(mixed), expected, ends


@settings(max_examples=80, deadline=None)
@given(
    conversations(),
    st.lists(st.integers(1, 60) | st.integers(1, 30_000), min_size=1, max_size=10),
    st.booleans(),
)
def test_any_cut_gives_the_same_messages_and_ends(conversation, sizes, pushes):
    sent, expected, ends = conversation
    pieces, start = [], 0
    for size in itertools.cycle(sizes):
        if start >= len(sent) or len(pieces) > 3000:
            break
        pieces.append(sent[start : start + size])
        start += size
    pieces.append(sent[start:])
    assert asyncio.run(received(pieces, pushes)) == (expected, ends)

"""The gRPC client against raw frames: answers, windows, headers."""

import pytest
from h2.errors import ErrorCodes
from hpack import Encoder

from inferd.services.net.http2.client_connection import STREAM_WINDOW
from inferd.services.net.http2.frames import (
    CONTINUATION,
    END_STREAM,
    HEADERS,
    PUSH_PROMISE,
    SETTINGS,
    WINDOW_UPDATE,
    frame_bytes,
)
from inferd.services.net.http2.framing import frame
from inferd.services.net.http2.header_block import header_block
from tests.support.http2_peer import (
    ANSWER,
    BODY,
    END_HEADERS,
    INITIAL_WINDOW,
    MAX_FRAME,
    MESSAGES,
    PADDED,
    PRIORITY,
    Code,
    Peer,
    answering,
    ask,
    ask_in_vain,
    data,
    drained,
    fails,
    head,
    headers,
    padded,
    reset,
    setting,
    talking,
    trailers,
    window_update,
    within,
)


async def test_what_a_request_looks_like():
    async def talk(peer: Peer) -> None:
        await peer.greet()
        stream, fields, body = await peer.request()
        assert (stream, body) == (1, frame(b"ask"))
        assert fields[b":path"] == b"/t.T/Any"
        assert fields[b":method"] == b"POST" and fields[b"te"] == b"trailers"
        assert fields[b"grpc-timeout"] == b"1500m"
        peer.say(head(), data(frame(b"x")), trailers())
        stream, fields, _ = await peer.request()
        assert stream == 3 and b"grpc-timeout" not in fields
        peer.say(head(3), data(frame(b"y"), 3), trailers(3))
        await peer.closed()

    async with talking(talk) as channel:
        assert await drained(await channel.start("/t.T/Any", b"ask", seconds=1.5)) == [b"x"]
        assert await drained(await channel.start("/t.T/Any", b"ask")) == [b"y"]


async def test_bytes_one_by_one():
    assert await ask(answering(*(bytes([byte]) for byte in ANSWER), pause=True)) == MESSAGES


async def test_frames_cut_at_every_byte():
    for cut in range(1, len(ANSWER), 7):
        assert await ask(answering(ANSWER[:cut], ANSWER[cut:], pause=True)) == MESSAGES


@pytest.mark.parametrize("size", [1, 2, 5, 6, 100])
async def test_messages_cut_over_frames(size):
    parts = [data(BODY[start : start + size]) for start in range(0, len(BODY), size)]
    assert await ask(answering(head(), *parts, trailers())) == MESSAGES
    assert await ask(answering(head() + b"".join(parts) + trailers())) == MESSAGES


async def test_a_part_of_a_message_that_looks_like_one():
    content = frame(b"inner")
    outer = frame(content)
    answer = [head(), data(outer[:5]), data(outer[5:]), data(frame(b"")), trailers()]
    assert await ask(answering(b"".join(answer))) == [content, b""]


async def test_padding_empty_frames_and_frames_of_unknown_kinds():
    inner = header_block([(b"grpc-status", b"0")])
    answer = [
        frame_bytes(
            HEADERS,
            END_HEADERS | PADDED | PRIORITY,
            1,
            padded(bytes(5) + header_block([(b":status", b"200")]), 9),
        ),
        data(b""),
        data(padded(frame(b"one"), 0), flags=PADDED),
        data(padded(b"", 17), flags=PADDED),
        frame_bytes(0xBE, 0xFF, 1, b"what is this"),
        data(padded(frame(b"two"), 255), flags=PADDED),
        frame_bytes(2, 0, 1, bytes(5)),
        frame_bytes(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, padded(inner, 3)),
    ]
    assert await ask(answering(b"".join(answer))) == [b"one", b"two"]


@pytest.mark.parametrize("content", [b"", b"\6abcde", b"\xff"])
async def test_padding_that_is_longer_than_its_frame(content):
    error = await ask_in_vain(answering(head(), data(content, flags=PADDED)))
    assert error.code is Code.UNAVAILABLE


async def test_padding_counts_in_the_window():
    count = 4 * STREAM_WINDOW // 256

    async def talk(peer: Peer) -> None:
        await peer.greet()
        await peer.request()
        peer.say(head())
        window = STREAM_WINDOW
        for _ in range(count):
            while window < 256:
                _, _, _, payload = await peer.until(WINDOW_UPDATE, stream=1)
                window += int.from_bytes(payload, "big")
            peer.say(data(padded(frame(b""), 250), flags=PADDED))
            await peer.writer.drain()
            window -= 256
        peer.say(trailers())
        await peer.closed()

    assert await ask(talk) == [b""] * count


async def test_an_end_without_trailers():
    error = await ask_in_vain(answering(head() + data(frame(b"one"), flags=END_STREAM)))
    assert error.code is Code.UNKNOWN
    async with talking(answering(head() + data(frame(b"one"), flags=END_STREAM))) as channel:
        call = await channel.start("/t.T/Any", b"")
        # What came is read first.
        assert await within(call.read()) == [b"one"]
        await fails(call.read())


async def test_trailers_only():
    pairs = ((b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"5"))
    answer = headers(1, *pairs, (b"grpc-message", b"no%20such%0A"), flags=END_HEADERS | END_STREAM)
    error = await ask_in_vain(answering(answer))
    assert (error.code, error.details) == (Code.NOT_FOUND, "no such\n")
    answer = headers(1, *pairs[:2], (b"grpc-status", b"0"), flags=END_HEADERS | END_STREAM)
    assert await ask(answering(answer)) == []


@pytest.mark.parametrize("status", [b"", b"17", b"99999", b"-1", b"x"])
async def test_a_status_that_nobody_knows(status):
    assert (await ask_in_vain(answering(head(), trailers(1, status)))).code is Code.UNKNOWN


async def test_trailers_that_cannot_be_read_do_not_hide_the_status():
    error = await ask_in_vain(
        answering(head(), trailers(1, b"8", (b"x-bin", b"!!"), (b"grpc-message", b"%zz")))
    )
    assert (error.code, error.details, error.trailers) == (Code.RESOURCE_EXHAUSTED, "%zz", [])


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_headers_over_continuations(size):
    pairs = [(b"grpc-status", b"9"), (b"grpc-message", b"long " * 6000), (b"x-more", b"a" * 999)]
    if size < 100:
        pairs = [(b"grpc-status", b"9"), (b"grpc-message", b"long")]
    block = header_block(pairs)
    first, *rest = (block[start : start + size] for start in range(0, len(block), size))
    answer = [frame_bytes(HEADERS, END_STREAM, 1, first)]
    for index, part in enumerate(rest, 1):
        answer.append(frame_bytes(CONTINUATION, END_HEADERS if index == len(rest) else 0, 1, part))
    error = await ask_in_vain(answering(head(), *answer))
    assert error.code is Code.FAILED_PRECONDITION
    assert error.details == dict(pairs)[b"grpc-message"].decode()


async def test_headers_from_a_table():
    """The server's table of headers grows with the connection's calls."""
    encoder = Encoder()

    async def talk(peer: Peer) -> None:
        await peer.greet()
        for number in range(5):
            stream, _, _ = await peer.request()
            first = [(":status", "200"), ("content-type", "application/grpc"), ("x-a", "b" * 50)]
            last = [("grpc-status", "3"), ("grpc-message", f"call {number % 2}")]
            peer.say(frame_bytes(HEADERS, END_HEADERS, stream, encoder.encode(first)))
            peer.say(frame_bytes(HEADERS, END_HEADERS | END_STREAM, stream, encoder.encode(last)))
        await peer.closed()

    async with talking(talk) as channel:
        for number in range(5):
            error = await fails(drained(await channel.start("/t.T/Any", b"")))
            assert error.details == f"call {number % 2}"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        bytes(range(255, 0, -1)),
        frame_bytes(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        frame_bytes(CONTINUATION, END_HEADERS, 1, b""),
        frame_bytes(HEADERS, 0, 1, b"") + frame_bytes(HEADERS, END_HEADERS, 1, b""),
        frame_bytes(HEADERS, 0, 1, b"") + frame_bytes(CONTINUATION, END_HEADERS, 3, b""),
        frame_bytes(HEADERS, 0, 1, b"") + frame_bytes(CONTINUATION, 0, 1, b"") * 1000,
        frame_bytes(PUSH_PROMISE, END_HEADERS, 1, bytes(4)),
        frame_bytes(SETTINGS, 0, 0, bytes(5)),
        setting((MAX_FRAME, 100)),
        setting((MAX_FRAME, 1 << 24)),
        setting((INITIAL_WINDOW, 1 << 31)),
        window_update(0, 2**31 - 1),
        window_update(1, 2**31 - 1) * 2,
        data(bytes(16385)),
    ],
)
async def test_what_is_no_http2_ends_the_connection(answer):
    async with talking(answering(answer)) as channel:
        call = await channel.start("/t.T/Any", b"")
        other = await channel.start("/t.T/Any", b"")
        for failed in (call, other):
            assert (await fails(drained(failed))).code is Code.UNAVAILABLE


async def test_headers_over_the_limit():
    long = headers(1, (b"x-long", b"a" * 9000))
    assert (await ask_in_vain(answering(long), max_header_bytes=8192)).code is Code.UNAVAILABLE


async def test_headers_before_the_headers():
    early = headers(1, (b":status", b"103"), (b"link", b"x"))
    assert await ask(answering(early + early + ANSWER)) == MESSAGES


async def test_frames_of_streams_that_are_over_or_were_never():
    strays = [
        data(b"stray", 99),
        window_update(99, 5),
        reset(2, 99),
        trailers(99),
        data(padded(b"", 3), 7, PADDED),
    ]
    assert await ask(answering(b"".join(strays) + ANSWER)) == MESSAGES


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (ErrorCodes.NO_ERROR, Code.INTERNAL),
        (ErrorCodes.PROTOCOL_ERROR, Code.INTERNAL),
        (ErrorCodes.REFUSED_STREAM, Code.UNAVAILABLE),
        (ErrorCodes.CANCEL, Code.CANCELLED),
        (ErrorCodes.ENHANCE_YOUR_CALM, Code.RESOURCE_EXHAUSTED),
        (ErrorCodes.INADEQUATE_SECURITY, Code.PERMISSION_DENIED),
        (12345, Code.INTERNAL),
    ],
)
async def test_a_reset_stream(code, expected):
    async with talking(answering(head() + data(frame(b"one")) + reset(code))) as channel:
        call = await channel.start("/t.T/Any", b"")
        assert await within(call.read()) == [b"one"]
        assert (await fails(call.read())).code is expected

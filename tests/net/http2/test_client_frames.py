"""Headers that a client connection receives. Repeated header blocks are decoded once."""

from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from inferd.services.net.http2.client_frames import ClientFrames
from inferd.services.net.http2.frames import END_HEADERS, END_STREAM, HEADERS

NAMES = st.sampled_from([b":status", b"grpc-status", b"grpc-message", b"content-type", b"x-a", b"x-b"])
VALUES = st.sampled_from([b"200", b"0", b"application/grpc", b"", b"a" * 40, b"b" * 300])
LISTS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), min_size=1, max_size=4)
#: A sequence of header blocks and changes of the size of the peer's table.
STEPS = st.lists(st.one_of(LISTS, st.sampled_from([0, 64, 128, 4096])), max_size=30)


def frames() -> ClientFrames:
    return ClientFrames(stream_window=1 << 16, connection_window=1 << 20, max_header_bytes=1 << 20)


@given(st.lists(LISTS, min_size=1, max_size=3), STEPS, st.data())
def test_headers_are_those_that_were_sent(common, steps, data):
    ours, encoder = frames(), Encoder()
    for step in steps:
        if isinstance(step, int):
            # Told the same size again, the library's encoder forgets that it has to tell of the change.
            if step != encoder.header_table_size:
                encoder.header_table_size = step
            continue
        # Most are like earlier ones, as those of calls are.
        sent = data.draw(st.sampled_from(common)) if data.draw(st.booleans()) else step
        block = encoder.encode(sent)
        found = ours.receive_headers(HEADERS, END_HEADERS | END_STREAM, 1, block)
        assert found == (1, True, [(name, value) for name, value, _ in sent])


def test_the_same_bytes_mean_another_thing_once_the_table_has_changed():
    ours = frames()
    add_a, add_b = b"\x40\x01a\x011", b"\x40\x01b\x012"
    newest = b"\xbe"
    assert ours.receive_headers(HEADERS, END_HEADERS, 1, add_a) == (1, False, [(b"a", b"1")])
    assert ours.receive_headers(HEADERS, END_HEADERS, 1, newest) == (1, False, [(b"a", b"1")])
    assert ours.receive_headers(HEADERS, END_HEADERS, 1, newest) == (1, False, [(b"a", b"1")])
    assert ours.receive_headers(HEADERS, END_HEADERS, 1, add_b) == (1, False, [(b"b", b"2")])
    assert ours.receive_headers(HEADERS, END_HEADERS, 1, newest) == (1, False, [(b"b", b"2")])


def test_a_block_that_resizes_the_table_does_so_each_time():
    ours = frames()
    status = b"\x88"
    small, large = b"\x20" + status, b"\x3f\xe1\x1f" + status
    add, newest = b"\x40\x01a\x011", b"\xbe"
    for _ in range(2):
        ours.receive_headers(HEADERS, END_HEADERS, 1, small)
        ours.receive_headers(HEADERS, END_HEADERS, 1, large)
        ours.receive_headers(HEADERS, END_HEADERS, 1, add)
        assert ours.receive_headers(HEADERS, END_HEADERS, 1, newest) == (1, False, [(b"a", b"1")])

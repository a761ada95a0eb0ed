"""`Prefer: wait=N` by the grammar of RFC 7240, also with headers that are meant to take long to parse."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferd.rest_bridge.prefer_header import preferred_wait


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([b"wait=10"], 10),
        ([b"  Wait\t=  10 "], 10),
        ([b'wait="10"'], 10),
        ([b'wait="1\\0"'], 10),
        ([b"respond-async, wait=10"], 10),
        ([b"respond-async", b"return=minimal, wait=10"], 10),
        ([b"wait=10; foo; bar=\"a,b\"; =?"], 10),
        ([b"foo; wait=5, wait=10"], 10),
        ([b'foo="wait=5, wait=6", wait=10'], 10),
        ([b'foo="a\\", wait=5", wait=10'], 10),
        ([b"wait=10, wait=20"], 10),
        ([b"wait=10", b"wait=20"], 10),
        ([b", ,,wait=10,"], 10),
        ([b"wait=0"], 0),
        ([b"wait=000000000000000000010"], 10),
        ([b"wait=9999999999"], 9999999999),
        # More than anyone waits; still a number.
        ([b"wait=" + b"9" * 20_000], 9999999999),
        # Malformed: as if it were not there.
        ([b"wait"], None),
        ([b"wait="], None),
        ([b'wait=""'], None),
        ([b"wait=-1"], None),
        ([b"wait=1.5"], None),
        ([b"wait=1s"], None),
        ([b"wait=1 2"], None),
        ([b'wait="1'], None),
        ([b'foo="wait=5, wait=10'], None),
        ([b"wait:10"], None),
        ([b"awaits=10, await=10"], None),
        ([b"\xff, wait=\xb2"], None),
    ],
)  # fmt: skip
def test_wait(headers: list[bytes], seconds: int | None) -> None:
    assert preferred_wait(headers) == seconds


@given(st.lists(st.binary(max_size=30) | st.text('wait=1",;\\ ', max_size=30).map(str.encode)))
def test_any_header_is_no_error(headers: list[bytes]) -> None:
    seconds = preferred_wait(headers)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    "part",
    [b'"', b'\\"', b'"\\"', b'"a', b",", b" ", b"; ", b"a ", b"a=", b'a="', b"wait= ", b'"\\', b"0"],
    ids=str,
)
@pytest.mark.parametrize("end", [b"", b"\\", b'"', b"!"], ids=str)
def test_the_time_grows_with_the_length_alone(part: bytes, end: bytes) -> None:
    header = b"wait=" + part * (60_000 // len(part)) + end
    start = time.process_time()
    preferred_wait([header, part * (60_000 // len(part)) + end])
    assert time.process_time() - start < 1

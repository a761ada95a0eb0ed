"""The quick reader of the scheduler's chunks against protobuf: what it reads is right, the rest it leaves."""

from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from smg_grpc_proto import sglang_scheduler_pb2 as pb

from inferd.services.runtimes.chunk_wire import next_token

UINT32 = st.integers(0, 2**32 - 1)
COUNTS = st.one_of(st.integers(0, 3), st.sampled_from([127, 128, 16384, 2**31, 2**32 - 1]), UINT32)


@st.composite
def responses(draw) -> pb.GenerateResponse:
    """Chunks, mostly of one token, with what else a chunk may have; and other responses."""
    response = pb.GenerateResponse(request_id="r" * draw(st.sampled_from([0, 1, 32, 127, 128, 300])))
    if draw(st.integers(0, 9)) == 0:
        response.complete.output_ids.extend(draw(st.lists(UINT32, max_size=2)))
        return response
    chunk = response.chunk
    chunk.SetInParent()
    chunk.token_ids.extend(
        draw(st.one_of(st.lists(COUNTS, min_size=1, max_size=1), st.lists(UINT32, max_size=3)))
    )
    chunk.completion_tokens = draw(COUNTS)
    for field in ("prompt_tokens", "cached_tokens", "reasoning_tokens", "index"):
        setattr(chunk, field, draw(COUNTS))
    if draw(st.integers(0, 5)) == 0:
        chunk.output_logprobs.token_logprobs.append(-1.0)
    if draw(st.integers(0, 5)) == 0:
        chunk.hidden_states.append(1.0)
    if draw(st.integers(0, 5)) == 0:
        chunk.input_logprobs.SetInParent()
    return response


def expected(response: pb.GenerateResponse, received: int) -> int:
    chunk = response.chunk
    said = {field.name for field, _ in chunk.ListFields()}
    counted = {
        "token_ids",
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "reasoning_tokens",
        "index",
    }
    if not response.HasField("chunk") or len(chunk.token_ids) != 1 or said - counted:
        return -1
    return chunk.token_ids[0] if chunk.completion_tokens == received + 1 else -1


@given(responses(), st.booleans(), COUNTS)
def test_a_chunk_of_the_next_token_is_read(response, is_next, other):
    received = max(response.chunk.completion_tokens - 1, 0) if is_next else other
    found = next_token(response.SerializeToString(), received)
    # An id that is empty, or longer than any of ours, is for the full parser.
    if 0 < len(response.request_id) <= 127:
        assert found == expected(response, received)
    else:
        assert found in (-1, expected(response, received))


@given(responses(), st.data())
def test_what_is_cut_or_changed_is_never_read_wrong(response, data):
    message = bytearray(response.SerializeToString())
    # Not within the id: nobody reads it.
    first = min(2 + len(response.request_id), len(message))
    for _ in range(data.draw(st.integers(0, 3))):
        if len(message) > first:
            message[data.draw(st.integers(first, len(message) - 1))] = data.draw(st.integers(0, 255))
    del message[data.draw(st.integers(first, len(message))) :]
    received = max(response.chunk.completion_tokens - 1, 0)
    check(bytes(message), received)


@given(st.binary(max_size=40), COUNTS)
@example(b"\n\x01r\x12\x05\n\x01\x07\x18\x01", 0)
@example(b"\n\x01r\x12\x06\n\x02\x87\x00\x18\x01", 0)
@example(b"\n\x01r\x12\x0a\n\x01\x07\x18\x81\x80\x80\x80\x80\x00", 0)
@example(b"\n\x01r\x12\x05\x08\x07\x18\x01", 0)
@example(b"\n\x01r\x12", 0)
@example(b"\n\x01r\x12\x85", 0)
@example(b"\n\x7fr", 0)
def test_any_bytes(message, received):
    check(message, received)


def check(message: bytes, received: int) -> None:
    found = next_token(message, received)
    if found >= 0:
        assert found == expected(pb.GenerateResponse.FromString(message), received)


def test_the_usual_chunk_is_read():
    """Not all is left to the full parser."""
    for token, completed, cached in ((0, 1, 0), (5, 1, 7), (200, 128, 0), (49151, 20000, 300)):
        chunk = pb.GenerateStreamChunk(
            token_ids=[token], prompt_tokens=40, completion_tokens=completed, cached_tokens=cached
        )
        message = pb.GenerateResponse(request_id="0" * 32, chunk=chunk).SerializeToString()
        assert next_token(message, completed - 1) == token
        assert next_token(message, completed) == -1
        try:
            pb.GenerateResponse.FromString(message[:-1])
        except DecodeError:
            assert next_token(message[:-1], completed - 1) == -1

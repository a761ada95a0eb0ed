"""What comes of a runtime's tokens: texts cut where they end, what ended them, and several as one stream."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence

import grpc
import pytest
from inferd.services.errors import ServiceError, invalid
from inferd.services.generation.generation import generate
from inferd.services.generation.interleave import interleave
from inferd.services.generation.piece_reader import Piece
from inferd.services.runtimes.base import Delta, Finish, GenerateRequest, Logprobs, SamplingParams

END = 2


class Scripted:
    """Stands for a model's replicas: gives these deltas."""

    def __init__(self, deltas: Sequence[Delta]) -> None:
        self.deltas = deltas
        self.closed = False

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        try:
            for delta in self.deltas:
                yield delta
        finally:
            self.closed = True


def deltas_of(ids: Sequence[int], cuts: Sequence[int], finish: Finish, logprobs: bool = False) -> list[Delta]:
    """The tokens, cut there; the last delta has `finish`."""
    bounds = [0, *cuts, len(ids)]
    deltas = []
    for start, end in itertools.pairwise(bounds):
        part = tuple(ids[start:end])
        values = Logprobs(part, tuple(-float(i) for i in part), ((),) * len(part)) if logprobs else None
        deltas.append(Delta(part, values, finish=finish if end == len(ids) else None))
    return deltas


async def read(small_text, deltas: Sequence[Delta], *, logprobs=False, **settings) -> list[Piece]:
    options = {name: settings.pop(name) for name in ("spans", "keep") if name in settings}
    sampling = SamplingParams(max_new_tokens=100, **settings)
    request = GenerateRequest((5, 6), sampling, stream=True, logprobs=logprobs)
    return [piece async for piece in generate(small_text, Scripted(deltas), request, **options)]


def joined(pieces: Sequence[Piece]) -> tuple[str, list[int]]:
    return "".join(piece.text for piece in pieces), [i for piece in pieces for i in piece.token_ids]


def tokens(small_text, text: str) -> list[int]:
    return small_text.tokenizer.encode(text, add_special_tokens=False)


def all_cuts(count: int) -> list[Sequence[int]]:
    """Each token alone, all at once, and cut at each two places."""
    return [range(1, count), (), *itertools.combinations(range(1, count), 2)]


@pytest.mark.parametrize(
    ("settings", "finish", "text", "matched"),
    [
        ({}, Finish("stop", END), "Hello é 🙂 STOP now", END),
        ({"skip_special_tokens": False}, Finish("stop", END), "Hello é 🙂 STOP now", END),
        ({"no_stop_trim": True}, Finish("stop", END), "Hello é 🙂 STOP now", END),
        (
            {"no_stop_trim": True, "skip_special_tokens": False},
            Finish("stop", END),
            "Hello é 🙂 STOP now<|im_end|>",
            END,
        ),
        ({}, Finish("length"), "Hello é 🙂 STOP now", None),
        ({"stop": ("🙂 ST", "OP")}, Finish("stop", END), "Hello é ", "🙂 ST"),
        ({"stop": ("🙂 ST", "OP"), "no_stop_trim": True}, Finish("stop", END), "Hello é 🙂 ST", "🙂 ST"),
        ({"stop": ("STOP now and",)}, Finish("length"), "Hello é 🙂 STOP now", None),
        # Found by the runtime in the text of a special token, which is not part of this one.
        ({"stop": ("<|im_end|>",)}, Finish("stop", None, "<|im_end|>"), "Hello é 🙂 STOP now", "<|im_end|>"),
        (
            {"stop": ("now<|im",), "skip_special_tokens": False},
            Finish("stop", None, "now<|im"),
            "Hello é 🙂 STOP ",
            "now<|im",
        ),
        ({"stop_regex": ("[A-Z]{3}",)}, Finish("stop", None, "[A-Z]{3}"), "Hello é 🙂 ", "[A-Z]{3}"),
        (
            {"stop_regex": ("S[A-Z]+ ",), "no_stop_trim": True},
            Finish("stop", END),
            "Hello é 🙂 STOP ",
            "S[A-Z]+ ",
        ),
        ({"stop_regex": ("x+",), "stop": ("é 🙂",)}, Finish("stop", END), "Hello ", "é 🙂"),
        ({"stop_regex": ("now$", "n.w!")}, Finish("stop", None, "now$"), "Hello é 🙂 STOP ", "now$"),
    ],
)
async def test_where_a_text_ends_does_not_depend_on_how_it_is_cut(
    small_text, settings, finish, text, matched
):
    ids = [*tokens(small_text, "Hello é 🙂 STOP now"), END]
    reason = "stop" if matched is not None else finish.reason
    for cuts in all_cuts(len(ids)):
        pieces = await read(small_text, deltas_of(ids, cuts, finish), **settings)
        assert joined(pieces)[0] == text, cuts
        assert (pieces[-1].finish, pieces[-1].matched) == (reason, matched)
        assert all(piece.finish is None and piece.matched is None for piece in pieces[:-1])


async def test_each_token_is_told_once_up_to_the_one_that_ends_the_text(small_text):
    ids = [*tokens(small_text, "Hello é 🙂 STOP now"), END]
    needed = next(
        n for n in range(len(ids)) if "STOP" in small_text.tokenizer.decode(ids[:n], skip_special_tokens=True)
    )
    for cuts in all_cuts(len(ids)):
        deltas = deltas_of(ids, cuts, Finish("stop", END))
        assert joined(await read(small_text, deltas))[1] == ids
        assert joined(await read(small_text, deltas, stop=("STOP",)))[1] == ids[:needed]


async def test_spans_tell_where_the_text_of_each_token_ends(small_text):
    ids = [1, *tokens(small_text, "Hello é 🙂 now"), END]
    decode = small_text.tokenizer.decode
    expected = [
        len(decode(ids[:n], skip_special_tokens=True).rstrip("\ufffd")) for n in range(1, len(ids) + 1)
    ]
    for cuts in all_cuts(len(ids)):
        pieces = await read(small_text, deltas_of(ids, cuts, Finish("stop", END)), spans=True)
        assert all(len(piece.ends) == len(piece.token_ids) for piece in pieces)
        assert [end for piece in pieces for end in piece.ends] == expected
    [piece] = await read(small_text, deltas_of(ids, (), Finish("stop", END)))
    assert piece.ends == ()


async def test_kept_tokens_are_text_also_where_a_stop_string_reaches_into_them(small_text):
    ids = [*tokens(small_text, "a<|im_start|>b"), 0, *tokens(small_text, "c"), END]
    keep = small_text.tokenizer.ids_of(frozenset({"<|im_start|>"}))
    for cuts in all_cuts(len(ids)):
        deltas = deltas_of(ids, cuts, Finish("stop", END))
        assert joined(await read(small_text, deltas, keep=keep))[0] == "a<|im_start|>bc"
        cut = await read(small_text, deltas, keep=keep, stop=("start|>b",))
        assert (joined(cut)[0], cut[-1].matched) == ("a<|im_", "start|>b")
        # A skipped token does not part a stop string.
        cut = await read(small_text, deltas, keep=keep, stop=("bc",))
        assert (joined(cut)[0], cut[-1].matched) == ("a<|im_start|>", "bc")


async def test_log_probabilities_go_with_the_text_that_is_out(small_text):
    ids = [*tokens(small_text, "Hello STOP now"), END]
    for cuts in all_cuts(len(ids)):
        deltas = deltas_of(ids, cuts, Finish("stop", END), logprobs=True)
        for settings in ({"stop": ("STOP",)}, {"stop": ("STOP",), "no_stop_trim": True}):
            pieces = await read(small_text, deltas, logprobs=True, **settings)
            told = [i for piece in pieces if piece.logprobs for i in piece.logprobs.token_ids]
            text = joined(pieces)[0]
            assert small_text.tokenizer.decode(told, skip_special_tokens=True) == text
            assert text == ("Hello STOP" if "no_stop_trim" in settings else "Hello ")


async def test_an_expression_that_takes_too_long_is_the_requests_fault(small_text):
    ids = tokens(small_text, "1,2,3,4,5,6,7,8,9," * 5)
    with pytest.raises(ServiceError) as raised:
        await read(small_text, deltas_of(ids, (), Finish("length")), stop_regex=("b", "(.*?,){11}P"))
    assert (raised.value.code, raised.value.field) == (grpc.StatusCode.INVALID_ARGUMENT, "stop_regex[1]")


async def test_the_work_ends_where_the_text_does(small_text):
    replicas = Scripted([Delta(tuple(tokens(small_text, "a STOP"))), Delta((5,)), Delta((6,))])
    request = GenerateRequest((5,), SamplingParams(100, stop=("STOP",)), stream=True)
    pieces = [piece async for piece in generate(small_text, replicas, request)]
    assert [piece.text for piece in pieces] == ["a "]
    assert replicas.closed


class Steps:
    """Continuations that give what is put in, in the order that it is put in; an error ends one."""

    def __init__(self, count: int) -> None:
        self.queues: list[asyncio.Queue[str | Exception | None]] = [asyncio.Queue() for _ in range(count)]
        self.closed: set[int] = set()
        self.streams = [self._stream(index) for index in range(count)]

    async def _stream(self, index: int) -> AsyncGenerator[Piece, None]:
        try:
            while (item := await self.queues[index].get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield Piece(item, (1,))
            yield Piece("", (), "stop")
        finally:
            self.closed.add(index)


def failure(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.UNAVAILABLE, "RUNTIME_UNAVAILABLE", message)


async def run(
    steps: Sequence[tuple[int, str | Exception | None]], count: int, **options
) -> tuple[list, object]:
    """What comes out when these steps happen one after the other: pieces by index, and the error raised."""
    source = Steps(count)
    told: list[tuple[int, str]] = []

    async def listen() -> None:
        async for index, piece in interleave(source.streams, **options):
            told.append((index, piece.error.message if piece.error else piece.text or piece.finish))
            assert (piece.finish == "error") == (piece.error is not None)

    listener = asyncio.create_task(listen())
    for index, step in steps:
        source.queues[index].put_nowait(step)
        # So many turns of the loop as it takes: what is to come of the step has come.
        for _ in range(20):
            await asyncio.sleep(0)
        told.append((-1, ""))
    listener.cancel()
    [outcome] = await asyncio.gather(listener, return_exceptions=True)
    assert source.closed == set(range(count))
    return told, outcome


BREAK = (-1, "")


async def test_one_that_fails_ends_with_an_error_and_the_others_go_on():
    error = failure("gone")
    told, outcome = await run([(0, "a"), (1, "b"), (1, error), (0, "c"), (0, None)], 2)
    assert told == [(0, "a"), BREAK, (1, "b"), BREAK, (1, "gone"), BREAK, (0, "c"), BREAK, (0, "stop"), BREAK]
    assert outcome is None


async def test_an_error_waits_for_another_one_to_give_something():
    told, outcome = await run([(1, "b"), (1, failure("x")), (0, failure("y")), (2, "c"), (2, None)], 3)
    # Its own text is not another's.
    assert told == [(1, "b"), BREAK, BREAK, (0, "y"), BREAK, (2, "c"), (1, "x"), BREAK, (2, "stop"), BREAK]
    assert outcome is None


async def test_where_all_fail_the_first_error_is_raised():
    first = failure("first")
    for steps in (
        [(2, first), (0, failure("second")), (1, failure("third"))],
        [(0, "a"), (1, "b"), (2, first), (0, failure("second")), (1, failure("third"))],
    ):
        _, outcome = await run(steps, 3)
        assert outcome is first
    _, outcome = await run([(0, first)], 1)
    assert outcome is first


async def test_a_fault_of_the_request_or_of_the_program_ends_all():
    for error in (invalid("regex", "no"), RuntimeError("bug")):
        told, outcome = await run([(0, "a"), (1, "b"), (0, error)], 2)
        assert outcome is error
        assert told == [(0, "a"), BREAK, (1, "b"), BREAK, BREAK]


async def test_all_or_none_fails_with_the_first():
    first = failure("first")
    told, outcome = await run([(0, "a"), (1, "b"), (0, first)], 2, all_or_none=True)
    assert outcome is first
    assert told == [(0, "a"), BREAK, (1, "b"), BREAK, BREAK]

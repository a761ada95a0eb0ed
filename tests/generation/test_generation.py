"""What comes of a runtime's tokens: texts cut where they end, what ended them, and several as one stream."""

import asyncio
import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import grpc
import pytest

from inferd.services.errors import ServiceError, invalid
from inferd.services.generation.delta_sink import DeltaSink, TextDelta
from inferd.services.generation.generation import Generation
from inferd.services.net.flow import Flow
from inferd.services.net.text_sink import TextSink
from inferd.services.runtimes.base import Delta, Finish, GenerateRequest, Logprobs, SamplingParams
from inferd.services.runtimes.token_sink import TokenSink

END = 2


class Scripted:
    """Stands for a model's replicas: pushes these deltas."""

    unsupported: frozenset[str] = frozenset()

    def __init__(self, deltas: Sequence[Delta]) -> None:
        self.deltas = deltas
        #: How many of the deltas were wanted.
        self.pushed = 0

    async def generate(self, request: GenerateRequest, sink: TokenSink) -> None:
        for delta in self.deltas:
            self.pushed += 1
            if not push(sink, delta):
                return


def push(sink: TokenSink, delta: Delta) -> bool:
    """Push a delta as a runtime does: a token alone, and not the first one, by `push_token`."""
    if sink.has_begun and delta == Delta(delta.token_ids) and len(delta.token_ids) == 1:
        return sink.push_token(delta.token_ids[0])
    return sink.push(delta)


def deltas_of(ids: Sequence[int], cuts: Sequence[int], finish: Finish, logprobs: bool = False) -> list[Delta]:
    """The tokens, cut there; the last delta has `finish`."""
    bounds = [0, *cuts, len(ids)]
    deltas = []
    for start, end in itertools.pairwise(bounds):
        part = tuple(ids[start:end])
        values = Logprobs(part, tuple(-float(i) for i in part), ((),) * len(part)) if logprobs else None
        deltas.append(Delta(part, values, finish=finish if end == len(ids) else None))
    return deltas


def generation(small_text, replicas: object, **settings) -> Generation:
    """A generation of one prompt; settings are its fields, or its sampling's."""
    options = {name: settings.pop(name) for name in list(settings) if name in Generation.__dataclass_fields__}
    sampling = SamplingParams(max_new_tokens=100, **settings)
    model = SimpleNamespace(text=small_text, replicas=replicas, adapter=None)
    fields = {"model": model, "prompts": [(5, 6)], "sampling": sampling, "n": 1, "stream": True}
    return Generation(**{**fields, **options})


async def read(small_text, deltas: Sequence[Delta], **settings) -> list[TextDelta]:
    [found] = await generation(small_text, Scripted(deltas), **settings).collect()
    return found


def joined(found: Sequence[TextDelta]) -> tuple[str, list[int]]:
    return "".join(delta.text for delta in found), [i for delta in found for i in delta.token_ids]


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
        found = await read(small_text, deltas_of(ids, cuts, finish), **settings)
        assert joined(found)[0] == text, cuts
        assert (found[-1].finish, found[-1].matched) == (reason, matched)
        assert all(delta.finish is None and delta.matched is None for delta in found[:-1])


async def test_each_token_is_told_once_up_to_the_one_that_ends_the_text(small_text):
    ids = [*tokens(small_text, "Hello é 🙂 STOP now"), END]
    needed = next(
        n for n in range(len(ids)) if "STOP" in small_text.tokenizer.decode(ids[:n], skip_special_tokens=True)
    )
    for cuts in all_cuts(len(ids)):
        deltas = deltas_of(ids, cuts, Finish("stop", END))
        assert joined(await read(small_text, deltas))[1] == ids
        assert joined(await read(small_text, deltas, stop=("STOP",)))[1] == ids[:needed]


async def test_token_ends_are_where_the_text_of_each_token_ends(small_text):
    ids = [1, *tokens(small_text, "Hello é 🙂 now"), END]
    decode = small_text.tokenizer.decode
    expected = [
        len(decode(ids[:n], skip_special_tokens=True).rstrip("\ufffd")) for n in range(1, len(ids) + 1)
    ]
    for cuts in all_cuts(len(ids)):
        found = await read(small_text, deltas_of(ids, cuts, Finish("stop", END)), token_ends=True)
        assert all(len(delta.ends) == len(delta.token_ids) for delta in found)
        assert [end for delta in found for end in delta.ends] == expected
    [delta] = await read(small_text, deltas_of(ids, (), Finish("stop", END)))
    assert delta.ends == ()


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
            found = await read(small_text, deltas, logprobs=True, **settings)
            told = [i for delta in found if delta.logprobs for i in delta.logprobs.token_ids]
            text = joined(found)[0]
            assert small_text.tokenizer.decode(told, skip_special_tokens=True) == text
            assert text == ("Hello STOP" if "no_stop_trim" in settings else "Hello ")


async def test_an_expression_that_takes_too_long_is_the_requests_fault(small_text):
    ids = tokens(small_text, "1,2,3,4,5,6,7,8,9," * 5)
    with pytest.raises(ServiceError) as raised:
        await read(small_text, deltas_of(ids, (), Finish("length")), stop_regex=("b", "(.*?,){11}P"))
    assert (raised.value.code, raised.value.field) == (grpc.StatusCode.INVALID_ARGUMENT, "stop_regex[1]")


async def test_the_work_ends_where_the_text_does(small_text):
    replicas = Scripted([Delta(tuple(tokens(small_text, "a STOP"))), Delta((5,)), Delta((6,))])
    [deltas] = await generation(small_text, replicas, stop=("STOP",)).collect()
    assert [delta.text for delta in deltas] == ["a "]
    assert replicas.pushed == 1


class Texts(TextSink):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def push(self, text: str) -> None:
        self.texts.append(text)


class TextsAfterOne(DeltaSink):
    """Takes texts alone after the first delta."""

    def __init__(self) -> None:
        super().__init__()
        self.deltas: list[TextDelta] = []
        self.sink = Texts()

    def push(self, delta: TextDelta) -> None:
        self.deltas.append(delta)
        self.texts = self.sink


async def test_texts_alone_are_all_but_the_first_delta_and_the_last(small_text):
    ids = [*tokens(small_text, "Hello é 🙂 STOP now"), END]
    for cuts in all_cuts(len(ids)):
        sink = TextsAfterOne()
        work = generation(small_text, Scripted(deltas_of(ids, cuts, Finish("stop", END))))
        await work.run([sink], Flow())
        first, *last = [delta.text for delta in sink.deltas]
        assert "".join([first, *sink.sink.texts, *last]) == "Hello é 🙂 STOP now"
        assert len(last) <= 1
        assert work.usage.completion_tokens == len(ids)


class Steps:
    """Stands for replicas whose continuations give what is put in, when it is put in; an error ends one."""

    unsupported: frozenset[str] = frozenset()

    def __init__(self, count: int, ids: dict[str, int]) -> None:
        self.queues: list[asyncio.Queue[str | Exception | None]] = [asyncio.Queue() for _ in range(count)]
        self.ended = 0
        self._ids = ids

    async def generate(self, request: GenerateRequest, sink: TokenSink) -> None:
        try:
            while (item := await self.queues[request.token_ids[0]].get()) is not None:
                if isinstance(item, Exception):
                    raise item
                push(sink, Delta((self._ids[item],)))
            sink.push(Delta((), finish=Finish("stop")))
        finally:
            self.ended += 1


class Told(DeltaSink):
    """Notes the deltas of the continuation at `index` in `told`."""

    def __init__(self, index: int, told: list[tuple[int, object]]) -> None:
        super().__init__()
        self._index = index
        self._told = told

    def push(self, delta: TextDelta) -> None:
        assert (delta.finish == "error") == (delta.error is not None)
        self._told.append((self._index, delta.error.message if delta.error else delta.text or delta.finish))


def failure(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.UNAVAILABLE, "RUNTIME_UNAVAILABLE", message)


async def run(
    small_text, steps: Sequence[tuple[int, str | Exception | None]], count: int, **options
) -> tuple[list, object]:
    """What comes out when these steps happen one after the other: deltas by index, and the error raised."""
    replicas = Steps(count, {letter: tokens(small_text, letter)[0] for letter in "abc"})
    told: list[tuple[int, object]] = []
    work = generation(small_text, replicas, prompts=[(index,) for index in range(count)], **options)
    running = asyncio.create_task(work.run([Told(index, told) for index in range(count)], Flow()))
    for index, step in steps:
        # Enough turns of the loop for all that comes of the step.
        for _ in range(20):
            await asyncio.sleep(0)
        replicas.queues[index].put_nowait(step)
        for _ in range(20):
            await asyncio.sleep(0)
        told.append(BREAK)
    running.cancel()
    [outcome] = await asyncio.gather(running, return_exceptions=True)
    assert replicas.ended == count
    return told, outcome


BREAK = (-1, "")


async def test_one_that_fails_ends_with_an_error_and_the_others_go_on(small_text):
    error = failure("gone")
    told, outcome = await run(small_text, [(0, "a"), (1, "b"), (1, error), (0, "c"), (0, None)], 2)
    assert told == [(0, "a"), BREAK, (1, "b"), BREAK, (1, "gone"), BREAK, (0, "c"), BREAK, (0, "stop"), BREAK]
    assert outcome is None


async def test_an_error_waits_for_another_one_to_give_something(small_text):
    steps = [(1, "b"), (1, failure("x")), (0, failure("y")), (2, "c"), (2, None)]
    told, outcome = await run(small_text, steps, 3)
    # Its own text is not another's.
    assert told[:5] == [(1, "b"), BREAK, BREAK, (0, "y"), BREAK]
    assert sorted(told[5:7]) == [(1, "x"), (2, "c")]
    assert told[7:] == [BREAK, (2, "stop"), BREAK]
    assert outcome is None


async def test_if_all_fail_the_first_error_is_raised(small_text):
    first = failure("first")
    for steps in (
        [(2, first), (0, failure("second")), (1, failure("third"))],
        [(0, "a"), (1, "b"), (2, first), (0, failure("second")), (1, failure("third"))],
    ):
        _, outcome = await run(small_text, steps, 3)
        assert outcome is first
    _, outcome = await run(small_text, [(0, first)], 1)
    assert outcome is first


async def test_a_fault_of_the_request_or_of_the_program_ends_all(small_text):
    for error in (invalid("regex", "no"), RuntimeError("bug")):
        told, outcome = await run(small_text, [(0, "a"), (1, "b"), (0, error)], 2)
        assert outcome is error
        assert told == [(0, "a"), BREAK, (1, "b"), BREAK, BREAK]


async def test_background_work_fails_with_the_first(small_text):
    first = failure("first")
    told, outcome = await run(small_text, [(0, "a"), (1, "b"), (0, first)], 2, background=True)
    assert outcome is first
    assert told == [(0, "a"), BREAK, (1, "b"), BREAK, BREAK]

"""Reasoning is separated verbatim, whether the prompt or the model opened it; and harmony's channels."""

import pytest

from inferd.services.text.output.events import CallArguments, CallBegin, CallEnd, Content, Event, Reasoning
from tests.support.output_texts import parse, parse_every_cut

OPENED, CLOSED = "<|im_start|>assistant\n<think>\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n"
CALL = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
CALLED = [CallBegin(0, "get_time"), CallArguments(0, "{}"), CallEnd(0)]


@pytest.mark.parametrize(
    ("family", "prompt_end", "text", "events", "end"),
    [
        ("qwen3", "", "<think>\na b\n</think>\n\nc", [Reasoning("\na b\n"), Content("\n\nc")], 20),
        ("qwen3", "", "\n<think>a</think>c", [Reasoning("a"), Content("c")], 17),
        ("qwen3", "", "a</think>c", [Content("a</think>c")], 0),
        ("qwen3", "", " plain", [Content(" plain")], 0),
        ("qwen3", "", "", [], 0),
        ("qwen3", OPENED, "a</think>c", [Reasoning("a"), Content("c")], 9),
        ("qwen3", OPENED, "<think>a</think>c", [Reasoning("a"), Content("c")], 16),
        ("qwen3", OPENED, "a </thin", [Reasoning("a </thin")], None),
        ("qwen3", OPENED, "</think>c", [Content("c")], 8),
        ("qwen3", CLOSED, "a <think> b", [Content("a <think> b")], 0),
        ("qwen3", "", "Well. <think>a</think>c", [Content("Well. "), Reasoning("a"), Content("c")], 0),
        ("qwen3", "", "<think>a</think>b <think>c", [Reasoning("a"), Content("b <think>c")], 16),
        ("qwen3", "", f"<think>a</think>\n{CALL}", [Reasoning("a"), *CALLED], 16),
        ("qwen3", OPENED, f"a\n{CALL}\nb", [Reasoning("a\n"), *CALLED, Content("\nb")], 2),
        ("qwen3", OPENED, "a <tool_call> b</think>c", [Reasoning("a <tool_call> b"), Content("c")], 23),
        ("deepseek-r1", "", "a</think>c", [Reasoning("a"), Content("c")], 9),
        ("deepseek-r1", "", "<think>\na</think>c", [Reasoning("\na"), Content("c")], 17),
        ("deepseek-r1", "", "a < b", [Reasoning("a < b")], None),
        ("deepseek-r1", CLOSED, "a", [Content("a")], 0),
        ("deepseek-r1", "", f"{CALL}</think>c", [Reasoning(CALL), Content("c")], len(CALL) + 8),
        ("mistral", "", "[THINK]a[/THINK]c", [Reasoning("a"), Content("c")], 16),
        ("kimi", "", "◁think▷a◁/think▷c", [Reasoning("a"), Content("c")], 16),
        ("gemma4", "", "<|channel>thought\na<channel|>c", [Reasoning("a"), Content("c")], 29),
        ("minimax-m3", "", "</mm:think>c", [Content("c")], 11),
        (
            "apertus2509",
            "",
            "<|inner_prefix|>a<|inner_suffix|>b<|inner_prefix|>c<|inner_suffix|>d",
            [Reasoning("a"), Content("b"), Reasoning("c"), Content("d")],
            33,
        ),
    ],
)
def test_reasoning(family: str, prompt_end: str, text: str, events: list[Event], end: int | None) -> None:
    assert parse_every_cut(text, "hermes", family, prompt_end=prompt_end) == events
    assert parse(text, "hermes", family, prompt_end=prompt_end)[1] == end


K3 = "<|open|>response<|sep|>b <|c<|close|>response<|sep|><|close|>message<|sep|>"


@pytest.mark.parametrize(
    ("family", "prompt_end", "text", "events"),
    [
        (
            "kimi_k3",
            "",
            f"<|open|>think<|sep|>a<|close|>think<|sep|>{K3}",
            [Reasoning("a"), Content("b <|c")],
        ),
        (
            "kimi_k3",
            "<|open|>think<|sep|>",
            f"a<|close|>think<|sep|>{K3}",
            [Reasoning("a"), Content("b <|c")],
        ),
        ("kimi_k3", "<|open|>response<|sep|>", "b<|close|>respon", [Content("b")]),
        ("kimi_k3", "", "<|open|>", []),
        ("gemma4", "", "<|channel>though", []),
        (
            "hunyuan_a13b",
            "",
            "<think>\na\n</think>\n<answer>\nb\n</answer>",
            [Reasoning("\na\n"), Content("b")],
        ),
        ("olmo3", "", "</think>\n\nb", [Content("\n\nb")]),
    ],
)
def test_what_frames_content_is_none_of_it(
    family: str, prompt_end: str, text: str, events: list[Event]
) -> None:
    assert parse_every_cut(text, None, family, prompt_end=prompt_end) == events


def test_a_call_after_the_prompts_empty_reasoning() -> None:
    assert parse_every_cut(f"\n{CALL}", "hermes", "qwen3", prompt_end=CLOSED) == CALLED


def test_a_call_does_not_interrupt_where_nothing_may_be_called() -> None:
    text = f"a{CALL}b</think>c"
    events = parse_every_cut(text, "hermes", "qwen3", prompt_end=OPENED, functions=())
    assert events == [Reasoning(f"a{CALL}b"), Content("c")]


COMMENTARY = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"


@pytest.mark.parametrize(
    ("prompt_end", "text", "events", "end"),
    [
        (
            "<|start|>assistant",
            "<|channel|>analysis<|message|>a\n<|end|><|start|>assistant<|channel|>final<|message|>c",
            [Reasoning("a\n"), Content("c")],
            39,
        ),
        ("<|start|>assistant", "<|channel|>final<|message|>c<|return|>", [Content("c")], 0),
        ("<|start|>assistant<|channel|>final<|message|>", "c", [Content("c")], 0),
        ("<|start|>assistant<|channel|>analysis<|message|>b", "a<|end|>", [Reasoning("a")], None),
        ("<|start|>assistant<|channel|>", "analysis<|message|>a", [Reasoning("a")], None),
        ("<|channel|>final<|message|>a ", "c", [Content("c")], 0),
        ("<|end|><|start|>assistant", "plain text", [Content("plain text")], 0),
        (
            "<|start|>assistant",
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant" + COMMENTARY + '{"x": "<|"}<|call|>',
            [Reasoning("a"), CallBegin(0, "f"), CallArguments(0, '{"x": "<|"}'), CallEnd(0)],
            38,
        ),
        (
            "<|start|>assistant",
            "<|channel|>commentary<|message|>Now:<|end|><|start|>assistant to=functions.g<|channel|>"
            'commentary<|message|>{"x": 1}<|call|>',
            [Content("Now:"), CallBegin(0, "g"), CallArguments(0, '{"x": 1}'), CallEnd(0)],
            0,
        ),
        ("", COMMENTARY + "<|call|>", [CallBegin(0, "f"), CallArguments(0, "{}"), CallEnd(0)], 0),
        ("", COMMENTARY + '{"x', [CallBegin(0, "f"), CallArguments(0, '{"x'), CallEnd(0, False)], 0),
        ("", COMMENTARY + "no<|call|>", [CallBegin(0, "f"), CallArguments(0, "no"), CallEnd(0, False)], 0),
        (
            "",
            "<|channel|>analysis<|message|>a<|end|><|channel|>analysis<|message|>b<|channel|>final<|message|>c",
            [Reasoning("ab"), Content("c")],
            69,
        ),
    ],
)
def test_harmony(prompt_end: str, text: str, events: list[Event], end: int | None) -> None:
    assert parse_every_cut(text, "gpt-oss", "gpt-oss", prompt_end=prompt_end) == events
    assert parse(text, "gpt-oss", "gpt-oss", prompt_end=prompt_end)[1] == end


def test_harmony_without_functions_has_no_calls() -> None:
    assert parse_every_cut(COMMENTARY + "{}<|call|>", None, "gpt-oss", functions=()) == [Content("{}")]

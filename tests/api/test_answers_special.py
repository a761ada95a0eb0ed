"""Answers whose markers are special tokens, as in real models: no marker becomes content, none is missed,
and another token changes nothing of the text that was sent before."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from inferd.services.text.model_text import ModelText
from tests.api.test_answers import ASK, Said, every_way
from tests.doubles.simulated_scheduler import fixed
from tests.support.small_model import write_small_model


@dataclass(frozen=True)
class Family:
    """A family's markers as its tokenizer holds them, and an answer of its: parts that no token reaches
    across, the last of which ends it."""

    tools: str
    reasoning_parser: str
    markers: tuple[str, ...]
    end: str
    parts: tuple[str, ...]
    reasoning: str
    content: str
    #: The reasoning with its markers.
    thought: str
    special: bool = True
    calls: int = 2

    @property
    def text(self) -> str:
        return "".join(self.parts)


PARIS, ROME = '{"city": "Paris"}', '{"city": "Rome </tool_call>"}'
V3 = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"
DSML = "｜DSML｜"
FAMILIES = {
    "qwen3": Family(
        "qwen",
        "qwen3",
        ("<think>", "</think>", "<tool_call>", "</tool_call>"),
        "<|im_end|>",
        (
            "<think>\nLook.\n</think>\n\nSure.\n",
            f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>\n',
            f'<tool_call>\n{{"name": "get_weather", "arguments": {ROME}}}\n</tool_call>',
        ),
        "\nLook.\n",
        "\n\nSure.\n",
        "<think>\nLook.\n</think>",
        special=False,
    ),
    "deepseek v3": Family(
        "deepseekv3",
        "deepseek-r1",
        (
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁calls▁end｜>",
            "<think>",
            "</think>",
        ),
        "<|im_end|>",
        (
            "Look.</think>Sure.<｜tool▁calls▁begin｜>",
            f"{V3}get_weather\n```json\n{PARIS}\n```<｜tool▁call▁end｜>\n",
            f"{V3}get_weather\n```json\n{ROME}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
        "Look.",
        "Sure.",
        "Look.</think>",
    ),
    "deepseek v3.2": Family(
        "deepseekv32",
        "deepseek-v3",
        (DSML, "<think>", "</think>"),
        "<|im_end|>",
        (
            f'<think>Look.</think>Sure.<{DSML}function_calls>\n<{DSML}invoke name="get_weather">\n'
            f'<{DSML}parameter name="city" string="true">Paris</{DSML}parameter>\n</{DSML}invoke>\n',
            f'<{DSML}invoke name="get_weather">\n<{DSML}parameter name="city" string="true">Rome </tool_call>'
            f"</{DSML}parameter>\n</{DSML}invoke>\n</{DSML}function_calls>",
        ),
        "Look.",
        "Sure.",
        "<think>Look.</think>",
    ),
    "kimi k2": Family(
        "kimi_k2",
        "kimi_k2",
        (
            "<|tool_calls_section_begin|>",
            "<|tool_call_begin|>",
            "<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
            "<|tool_calls_section_end|>",
            "<think>",
            "</think>",
        ),
        "<|im_end|>",
        (
            "<think>Look.</think>Sure.<|tool_calls_section_begin|>",
            f"<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{PARIS}<|tool_call_end|>",
            f"<|tool_call_begin|>functions.get_weather:1<|tool_call_argument_begin|>{ROME}<|tool_call_end|>"
            "<|tool_calls_section_end|>",
        ),
        "Look.",
        "Sure.",
        "<think>Look.</think>",
    ),
    "kimi k3": Family(
        "kimi_k3",
        "kimi_k3",
        ("<|open|>", "<|close|>", "<|sep|>"),
        "<|im_end|>",
        (
            "<|open|>think<|sep|>Look.<|close|>think<|sep|><|open|>response<|sep|>Sure.<|close|>response<|sep|>",
            '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|><|open|>argument key="city"'
            ' type="string"<|sep|>Paris<|close|>argument<|sep|><|close|>call<|sep|>',
            '<|open|>call tool="get_weather" index="2"<|sep|><|open|>argument key="city"'
            ' type="string"<|sep|>Rome </tool_call><|close|>argument<|sep|><|close|>call<|sep|>'
            "<|close|>tools<|sep|><|close|>message<|sep|>",
        ),
        "Look.",
        "Sure.",
        "<|open|>think<|sep|>Look.<|close|>think<|sep|>",
    ),
    "mistral": Family(
        "mistral",
        "mistral",
        ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"),
        "<|im_end|>",
        (
            "[THINK]Look.[/THINK]Sure.",
            f"[TOOL_CALLS]get_weather[ARGS]{PARIS}",
            f"[TOOL_CALLS]get_weather[ARGS]{ROME}",
        ),
        "Look.",
        "Sure.",
        "[THINK]Look.[/THINK]",
    ),
    "gemma": Family(
        "gemma4",
        "gemma4",
        ("<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"),
        "<|im_end|>",
        (
            "<|channel>thought\nLook.<channel|>Sure.",
            '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|>',
            '<|tool_call>call:get_weather{city:<|"|>Rome </tool_call><|"|>}<tool_call|>',
        ),
        "Look.",
        "Sure.",
        "<|channel>thought\nLook.<channel|>",
    ),
    "llama": Family(
        "llama3",
        "none",
        ("<|python_tag|>", "<|eom_id|>"),
        "<|eom_id|>",
        (
            "Sure.",
            f'<|python_tag|>{{"name": "get_weather", "parameters": {PARIS}}}; ',
            f'{{"name": "get_weather", "parameters": {ROME}}}',
        ),
        "",
        "Sure.",
        "",
    ),
    "gpt-oss": Family(
        "gpt-oss",
        "gpt-oss",
        (
            "<|start|>",
            "<|channel|>",
            "<|constrain|>",
            "<|message|>",
            "<|end|>",
            "<|call|>",
            "<|return|>",
        ),
        "<|call|>",
        (
            "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary<|message|>Sure.<|end|>",
            "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
            f"{PARIS}",
        ),
        "Look.",
        "Sure.",
        "<|channel|>analysis<|message|>Look.<|end|>",
        calls=1,
    ),
}
EXPECTED = [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome </tool_call>"})]


@pytest.fixture
def transport() -> str:
    """Both transports of the bridge are compared in other tests."""
    return "in process"


@dataclass
class Model:
    """A family's model: where it is, and the tokens of its answer."""

    path: Path
    text: ModelText
    ids: list[int]
    end: int


@pytest.fixture(scope="session", params=FAMILIES)
def family(request) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="session")
def model(family, tmp_path_factory) -> Model:
    """The small model, with the family's markers in its vocabulary."""
    folder = write_small_model(tmp_path_factory.mktemp("special"), context_length=4096)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if family.special:
        tokenizer.add_special_tokens(list(family.markers))
    else:
        tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in family.markers])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    end = tokenizer.token_to_id(family.end)
    config |= {"vocab_size": tokenizer.get_vocab_size(), "eos_token_id": sorted({2, end})}
    (folder / "config.json").write_text(json.dumps(config))
    text = ModelText.load(folder)
    ids = [i for part in family.parts for i in text.tokenizer.encode(part, add_special_tokens=False)]
    assert set(map(tokenizer.token_to_id, family.markers)) - {end} & set(ids)
    return Model(folder, text, [*ids, end], end)


@pytest.fixture
async def inferd(start_inferd, family, model):
    parsers = {"tool_call_parser": family.tools, "reasoning_parser": family.reasoning_parser}
    return await start_inferd(model={"path": str(model.path), **parsers})


def calls_of(said: Said) -> list[tuple[str, dict]]:
    return [(name, json.loads(arguments)) for _, name, arguments in said.calls]


async def test_markers_are_read_and_never_shown(inferd, family, model) -> None:
    for cut in [(1,), (3, 1, 5), (10_000,)]:
        inferd.runtime.script = fixed(model.ids, chunk_sizes=cut, matched_token_id=model.end)
        for body in (ASK, {**ASK, "skip_special_tokens": False}):
            for way, said in (await every_way(inferd, body)).items():
                assert calls_of(said) == EXPECTED[: family.calls], (way, cut)
                assert (said.content, said.reasoning) == (family.content, family.reasoning), (way, cut)
                assert said.finish == "tool_calls", (way, cut)


async def test_every_token_has_its_logprobs_and_is_counted(inferd, family, model) -> None:
    inferd.runtime.script = fixed(model.ids, chunk_sizes=(2, 3), matched_token_id=model.end)
    body = {**ASK, "logprobs": True, "n": 2, "return_token_ids": True}
    async with inferd.http() as http:
        whole = (await http.post("/v1/chat/completions", json=body)).json()
        stream = {**body, "stream": True, "stream_options": {"include_usage": True}}
        chunks = events((await http.post("/v1/chat/completions", json=stream)).text)
    usage = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert usage == [whole["usage"]]
    thought = whole["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert whole["usage"]["completion_tokens"] == 2 * len(model.ids)
    assert thought == 2 * len(model.text.tokenizer.encode(family.thought, add_special_tokens=False))
    for index in range(2):
        choice = whole["choices"][index]
        parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == index]
        assert choice["token_ids"] == model.ids
        assert [i for part in parts for i in part.get("token_ids", [])] == model.ids
        listed = choice["logprobs"]["content"]
        assert bytes(b for entry in listed for b in entry["bytes"]).decode() == family.text + family.end
        assert [
            entry for part in parts for entry in (part.get("logprobs") or {}).get("content", [])
        ] == listed


async def test_cut_off_at_every_token(inferd, family, model) -> None:
    ids = model.ids[:-1]
    inferd.runtime.script = fixed(ids, chunk_sizes=(1, 2), finish_reason="length")
    before = model.text.tokenizer.encode("".join(family.parts[:-1]), add_special_tokens=False)
    whole_content, whole_arguments = "", ""
    async with inferd.http() as http:
        for count in range(1, min(len(before) + 12, len(ids)) if family.calls > 1 else len(ids)):
            body = {**ASK, "max_tokens": count}
            [choice] = (await http.post("/v1/chat/completions", json=body)).json()["choices"]
            said = Said.whole(choice)
            reply = await http.post("/v1/chat/completions", json={**body, "stream": True})
            assert Said.streamed(events(reply.text)).but_ids() == said.but_ids(), count
            assert said.finish == "length", count
            # Half of a marker that is not a token of its own may still become text.
            assert said.content.rstrip("</\n") == family.content[: len(said.content.rstrip("</\n"))], (
                count,
                said,
            )
            assert family.reasoning.startswith(said.reasoning), (count, said)
            # Text that was sent stays: another token only adds to it.
            content, arguments = said.content.rstrip("</\n"), "".join(call[2] for call in said.calls)
            assert content.startswith(whole_content), count
            assert arguments.startswith(whole_arguments), count
            whole_content, whole_arguments = content, arguments
            assert [name for _, name, _ in said.calls] == ["get_weather"] * len(said.calls)


async def test_a_stop_string_ends_a_call_where_it_stands(inferd, family, model) -> None:
    inferd.runtime.script = fixed(model.ids, chunk_sizes=(4,), matched_token_id=model.end)
    for said in (await every_way(inferd, {**ASK, "stop": ["aris"]})).values():
        assert (said.content, said.reasoning, said.finish) == (family.content, family.reasoning, "stop")
        [(_, name, arguments)] = said.calls
        assert name == "get_weather"
        assert arguments == '{"city": "P'


async def test_one_call_of_several(inferd, family, model) -> None:
    inferd.runtime.script = fixed(model.ids, chunk_sizes=(4,), matched_token_id=model.end)
    for said in (await every_way(inferd, {**ASK, "parallel_tool_calls": False})).values():
        assert calls_of(said) == EXPECTED[:1]
        assert (said.content, said.reasoning, said.finish) == (family.content, family.reasoning, "tool_calls")


async def test_reasoning_that_is_not_separated_is_the_text_itself(inferd, family, model) -> None:
    inferd.runtime.script = fixed(model.ids, chunk_sizes=(4,), matched_token_id=model.end)
    for said in (await every_way(inferd, {**ASK, "separate_reasoning": False})).values():
        assert calls_of(said) == EXPECTED[: family.calls]
        assert said.reasoning == ""
        if family.tools != "gpt-oss":
            assert said.content == family.thought + family.content
        else:
            assert said.content == family.reasoning + family.content


async def test_without_tools_all_but_the_reasoning_is_content(inferd, family, model) -> None:
    inferd.runtime.script = fixed(model.ids, chunk_sizes=(4,), matched_token_id=model.end)
    body = {"model": "small", "messages": ASK["messages"]}
    for said in (await every_way(inferd, body)).values():
        assert said.calls == []
        assert said.reasoning == family.reasoning
        assert said.content.startswith(family.content)
        assert said.finish == "stop"


def events(text: str) -> list[dict]:
    """The chunks of a stream's text."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]

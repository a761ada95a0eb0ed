"""The parts of the output parser one by one, and texts that no model would write."""

import json
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.services.text.output.format_types import HARMONY_MARKERS, ToolFormat
from inferd.services.text.output.formats import OutputFormat
from inferd.services.text.output.json_scanner import JsonScanner
from inferd.services.text.output.json_strings import StringDecoder, decoded, encoded
from inferd.services.text.output.markers import MarkerFinder
from inferd.services.text.output.reasoning_families import REASONING_FORMATS
from inferd.services.text.output.tool_families import TOOL_FORMATS
from tests.support.output_texts import content, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def scan(pieces: list[str]) -> tuple[int, bool, bool]:
    """How far the scanner came, whether the value ended and whether it broke."""
    scanner, length = JsonScanner(), 0
    for piece in pieces:
        read = scanner.scan(piece, 0)
        length += read
        if read < len(piece):
            break
    return length, scanner.done, scanner.broken


def cut_at(text: str, cuts: list[int]) -> list[str]:
    """The text in pieces."""
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[begin:end] for begin, end in pairwise(places)]


@given(st.dictionaries(st.text(), JSON), st.sampled_from([None, 1]), st.text(), st.lists(st.integers(0, 999)))
def test_a_value_ends_where_it_ends(value: object, indent: int | None, rest: str, cuts: list[int]) -> None:
    written = json.dumps(value, indent=indent)
    assert scan(cut_at(written + rest, cuts)) == (len(written), True, False)


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from([*'{}[]:,"', "1", "-", "true", "nul", " ", '"a"', '\\"']), max_size=8).map(
        "".join
    ),
    st.lists(st.integers(0, 999)),
)
def test_what_the_scanner_takes_is_json(text: str, cuts: list[int]) -> None:
    length, done, broken = scan(cut_at(text, cuts))
    assert (length, done, broken) == scan([text])
    if done:
        json.loads(text[:length], strict=False)
    if broken:
        # No end makes it JSON: not the one that closes what the good part had opened, either.
        assert not any(
            _is_json(text[: length + 1] + end) for end in ("", "}", "]", '"', '"}', ":1}", "1}", "1]")
        )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@given(st.text(), st.booleans(), st.lists(st.integers(0, 999)))
def test_strings_are_decoded_as_json_does(text: str, ascii_only: bool, cuts: list[int]) -> None:
    inside = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
    decoder = StringDecoder()
    pieces = [decoder.decode(piece) for piece in cut_at(inside, cuts)]
    assert "".join([*pieces, decoder.decode("", ended=True)]) == text
    assert decoded(encoded(text)) == text


def test_strings_that_json_does_not_know() -> None:
    assert decoded("\\d\\u12") == "\\d\\u12"
    assert decoded("\\ud83dx\\ude00") == "\ufffdx\ufffd"


@given(
    st.sets(st.text(st.sampled_from("<ab>"), min_size=1, max_size=4), max_size=4),
    st.text(st.sampled_from("<ab>x"), max_size=12),
)
def test_a_marker_is_never_missed_or_invented(markers: set[str], text: str) -> None:
    end, marker = MarkerFinder(frozenset(markers)).find(text, 0, ended=True)
    found = [(place, -len(mark), mark) for mark in markers if (place := text.find(mark)) >= 0]
    assert (end, marker) == ((min(found)[0], min(found)[2]) if found else (len(text), ""))
    early, mark = MarkerFinder(frozenset(markers)).find(text, 0, ended=False)
    assert (early, mark) == (end, marker) or (not mark and early <= end)
    if not mark:  # what is held back may become a marker
        assert early == len(text) or any(other.startswith(text[early:]) for other in markers)


PIECES = [
    '{"name": "get_time"', '{"name": "no"', ', "arguments": {', '"parameters": "{\\"a\\": 1}"',
    "{", "}", '"', "\\", "a", " ", "\n", "get_time", "(", "city=", "'", "1", "null", ":", "[", "]", ",", ";",
    "😀", "\\ud83d", '"a"', "functions.get_time:0", " to=functions.f", "analysis", 'string="true">', "```",
    "x" * 1100,
]  # fmt: skip


def _pieces(tools: ToolFormat) -> list[str]:
    begin = tools.section_begin + tools.call_begin + "get_weather" + tools.call_name_end
    written = [tools.section_begin, tools.section_end, tools.call_begin, tools.call_name_end, tools.call_end]
    return [piece for piece in (*written, begin, *sorted(tools.markers), *HARMONY_MARKERS[:2]) if piece]


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(TOOL_FORMATS)),
    st.sampled_from([None, "qwen3", "deepseek-r1", "apertus2509", "gpt-oss"]),
    st.sampled_from(
        ["", "<think>\n", "<think>\n\n</think>\n\n", "<|start|>assistant<|channel|>final<|message|>"]
    ),
    st.data(),
)
def test_no_text_depends_on_its_cuts(
    tools: str, reasoning: str | None, prompt_end: str, data: st.DataObject
) -> None:
    own = _pieces(TOOL_FORMATS[tools]) + (["<think>", "</think>"] if reasoning else [])
    words = st.sampled_from(PIECES) | st.sampled_from(own) | st.sampled_from(own)
    text = data.draw(st.lists(words, max_size=12).map("".join))
    text = text[: data.draw(st.integers(0, len(text)))]
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=5).map(sorted))
    whole = parse(text, tools, reasoning, prompt_end=prompt_end)
    assert parse(text, tools, reasoning, prompt_end=prompt_end, cuts=cuts) == whole
    assert parse(text, tools, reasoning, prompt_end=prompt_end, cuts=range(1, len(text))) == whole


@given(st.text())
def test_without_formats_all_is_content(text: str) -> None:
    events, reasoning_end = parse(text)
    assert content(events) == text
    assert reasoning_end == 0


def test_markers_are_those_that_tokenizers_hold() -> None:
    def markers(tools: str, reasoning: str | None = None) -> frozenset[str]:
        return OutputFormat(TOOL_FORMATS[tools], REASONING_FORMATS[reasoning] if reasoning else None).markers

    assert markers("hermes", "qwen3") == {"<tool_call>", "</tool_call>", "<think>", "</think>"}
    assert markers("mistral", "mistral") == {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"}
    assert {"｜DSML｜"} <= markers("deepseekv32")
    assert {"<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"} <= markers(
        "gemma4", "gemma4"
    )
    assert markers("gpt-oss", "gpt-oss") == set(HARMONY_MARKERS)
    assert markers("kimi_k2") >= {
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
    }
    assert {"<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"} <= markers("deepseekv3")

"""Each family's calls are parsed exactly, whatever their arguments hold and wherever the text is cut."""

import keyword
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.services.text.output.format_types import HarmonyCalls, NamedCalls, NestedTags, TaggedArguments
from inferd.services.text.output.tool_families import TOOL_FORMATS
from tests.support.output_texts import WRITERS, Call, complete_calls, content, parse, parse_every_cut

CALLS: list[Call] = [
    ("get_weather", {"city": 'São "Paulo"\\ </tool_call>\n{[(', "days": -3, "sure": True, "rate": 1.5e-7}),
    ("get_time", {}),
    ("get_weather", {"deep": {"a": [1, {"b": None}], "c": "}]"}, "list": ["x", [], {}], "note": None}),
    ("get_weather", {"city": "  two\n\nlines 😀\t", "note": "nullable", "days": 12345678901234567890}),
]
# What the format itself cannot say: a bare value ends with its own end, and has no way to quote it.
FRAGMENTS = [
    "</tool_call>",
    "<tool_call>",
    "</think>",
    '"',
    "'",
    "\\",
    "\\n",
    "\n",
    "\n\n",
    " ",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ":",
    "=",
    "null",
    "<",
    "</",
    "<|call|>",
    "😀",
    "\u2028",
    "\x00",
    "é",
    "```",
]


def test_every_family_is_written_here() -> None:
    assert {TOOL_FORMATS[name].name for name in WRITERS} == {format.name for format in TOOL_FORMATS.values()}


@pytest.mark.parametrize("family", WRITERS)
def test_calls_are_read_back_for_every_cut(family: str) -> None:
    written = WRITERS[family](CALLS)
    assert complete_calls(parse_every_cut(written, family)) == CALLS


def _ends() -> list[tuple[str, str]]:
    """Families, and what may be missing at the end of their calls."""
    found = []
    for family in WRITERS:
        tools = TOOL_FORMATS[family]
        tagged = isinstance(tools.syntax, NamedCalls) and isinstance(
            tools.syntax.arguments, TaggedArguments | NestedTags
        )
        # Tagged arguments are all there only where the call ends.
        ends = {tools.section_end} if tagged else {tools.section_end, tools.call_end}
        found += [(family, end.strip()) for end in sorted(ends) if end.strip()]
    return found


@pytest.mark.parametrize(("family", "end"), _ends())
def test_a_call_is_all_there_without_what_closes_it(family: str, end: str) -> None:
    written = WRITERS[family](CALLS[:1]).rstrip()
    assert complete_calls(parse_every_cut(written.removesuffix(end), family, step=3)) == CALLS[:1]


@pytest.mark.parametrize("family", [family for family in WRITERS if family != "gpt-oss"])
def test_text_around_calls_is_content(family: str) -> None:
    write = WRITERS[family]
    text = f" Well.\n\n{write(CALLS[:2])} and {write(CALLS[2:])}\n so.\n"
    events = parse_every_cut(text, family, step=7)
    assert complete_calls(events) == CALLS
    assert content(events) == " Well.\n\n and \n so.\n"


@pytest.mark.parametrize("family", [family for family in WRITERS if family != "gpt-oss"])
def test_space_around_calls_is_not_content(family: str) -> None:
    write = WRITERS[family]
    events = parse_every_cut(f"\n\n{write(CALLS[:1])}\n \n{write(CALLS[1:])}\n", family, step=7)
    assert complete_calls(events) == CALLS
    assert content(events) == ""


@pytest.mark.parametrize("family", [family for family in WRITERS if family != "gpt-oss"])
def test_without_functions_nothing_is_a_call(family: str) -> None:
    text = f"Well. {WRITERS[family](CALLS)} so. "
    events = parse_every_cut(text, family, functions=(), step=7)
    assert content(events) == text
    assert complete_calls(events) == []


@pytest.mark.parametrize("family", WRITERS)
def test_a_truncated_answer_tells_what_it_had(family: str) -> None:
    written = WRITERS[family](CALLS[:1])
    whole = parse(written, family)[0]
    arguments = next(event.text for event in whole if type(event).__name__ == "CallArguments")
    for end in range(len(written)):
        events = parse(written[:end], family)[0]
        assert (
            parse(written[:end], family, cuts=sorted({end // 2, max(end - 3, 0), max(end - 1, 0)}))[0]
            == events
        )
        ends = [event for event in events if type(event).__name__ == "CallEnd"]
        begins = [event for event in events if type(event).__name__ == "CallBegin"]
        assert len(begins) == len(ends) <= 1
        read = "".join(event.text for event in events if type(event).__name__ == "CallArguments")
        assert arguments.startswith(read)
        assert not ends or ends[0].complete == (read == arguments)  # type: ignore[union-attr]
        assert not any(marker in content(events) for marker in TOOL_FORMATS[family].markers), written[:end]


def _expressible(family: str, text: str) -> bool:
    match TOOL_FORMATS[family].syntax:
        case NamedCalls(arguments=TaggedArguments(end=end)):
            return end not in text and not (text + end).startswith(end) and end not in (text + end)[:-1]
        case NamedCalls(arguments=NestedTags(mark=mark)):
            return mark[0] not in text
        case NamedCalls(quote=quote) if quote:
            return quote not in text
        case _:
            return True


_WORDS = st.one_of(st.sampled_from(FRAGMENTS), st.text(st.characters(codec="utf-8"), max_size=4))
_STRINGS = st.lists(_WORDS, max_size=6).map("".join)
_NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_KEYS = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True).filter(lambda key: not keyword.iskeyword(key))


@st.composite
def _arguments(draw: st.DrawFn, family: str) -> dict[str, Any]:
    strings = _STRINGS.filter(lambda text: _expressible(family, text))
    scalars = st.none() | st.booleans() | _NUMBERS | strings
    values = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
        max_leaves=6,
    )
    return draw(
        st.fixed_dictionaries(
            {},
            optional={
                "city": strings,
                "note": strings.filter(lambda text: text.strip() != "null") | st.none(),
                "days": st.integers(),
                "rate": _NUMBERS,
                "sure": st.booleans(),
                "list": st.lists(values, max_size=3),
                "deep": st.dictionaries(_KEYS, values, max_size=3),
            },
        )
    )


_TEXT = st.text(st.sampled_from("ab .!é😀\n\t"), max_size=8)


@pytest.mark.parametrize("family", WRITERS)
@settings(max_examples=10)
@given(data=st.data())
def test_any_calls_any_cuts(family: str, data: st.DataObject) -> None:
    named = st.tuples(st.sampled_from(["get_weather", "get_time", "un_known"]), _arguments(family))
    if not isinstance(TOOL_FORMATS[family].syntax, HarmonyCalls):
        texts = data.draw(st.tuples(_TEXT, _TEXT, _TEXT))
    else:
        texts = ("", "<|start|>assistant", "")
    marked = family not in ("llama3", "xlam", "json_array", "pythonic")
    groups = [data.draw(st.lists(named, min_size=1, max_size=3)) for _ in range(2)]
    found: list[Call] = []
    for group in groups:
        for index, (name, arguments) in enumerate(group):
            if name != "get_weather":
                # No types are known: a string that reads as JSON of another type would be that.
                arguments = {"city": "x"} if arguments else {}
            group[index] = (name if marked or name != "un_known" else "get_time", arguments)
        found += group
    write = WRITERS[family]
    text = texts[0] + write(groups[0]) + texts[1] + write(groups[1]) + texts[2]
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    events, _ = parse(text, family, cuts=cuts)
    assert parse(text, family)[0] == events
    assert complete_calls(events) == found
    if texts[1] != "<|start|>assistant":
        assert content(events) == "".join(part for part in texts if not part.isspace())

"""Tool calls in an answer: verbatim arguments, unusual ones, broken ones, and text that is no call."""

import pytest

from inferd.services.text.function import Function
from inferd.services.text.output.events import CallArguments, CallBegin, CallEnd, Content
from inferd.services.text.output.formats import OutputFormat
from inferd.services.text.output.parser import OutputParser
from inferd.services.text.output.tool_families import TOOL_FORMATS
from tests.support.output_texts import calls, complete_calls, content, parse, parse_every_cut

VERBATIM = '{ "city" :\n"a\\u00e9\\"</tool_call>",  "x":[1 , 2.50e+1, {}, null ] }'


@pytest.mark.parametrize(
    ("family", "begin", "end"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": ', "}</tool_call>"),
        ("hermes", '<tool_call>{"arguments": ', ', "name": "f"}</tool_call>'),
        ("hermes", '<tool_call>{"type": "function", "name": "f", "parameters": ', ', "x": [1]}</tool_call>'),
        ("mistral", "[TOOL_CALLS]f[ARGS]", ""),
        ("mistral", "[TOOL_CALLS]f", ""),
        ("mistral", '[TOOL_CALLS][{"name":"f","arguments":', ',"id":"abcdefghi"}]'),
        ("deepseekv31", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
        ("deepseekv31", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>", "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        (
            "kimi_k2",
            "<|tool_calls_section_begin|>\n<|tool_call_begin|> f <|tool_call_argument_begin|> ",
            "",
        ),
        ("llama3", '{"name": "get_weather", "parameters": ', "}"),
        ("llama3", '{"parameters": ', ', "name": "get_weather"}'),
        ("qwen3_coder", "<tool_call>\n<function=f>\n", "\n</function>\n</tool_call>"),
        ("qwen3_coder", "<function=f>", "</function>"),
        (
            "deepseekv32",
            '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">',
            "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        ),
    ],
)
def test_json_arguments_are_verbatim(family: str, begin: str, end: str) -> None:
    events = parse_every_cut(begin + VERBATIM + end, family)
    assert [event for event in events if isinstance(event, CallArguments)] == [CallArguments(0, VERBATIM)]
    assert [complete for _, _, complete in calls(events)] == [True]
    assert content(events) == ""


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('"arguments": "{\\"a\\": \\"\\\\u00e9\\ud83d\\ude00\\n\\"}"', '{"a": "\\u00e9😀\n"}'),
        ('"arguments": "{}"', "{}"),
        ('"arguments": ""', "{}"),
        ('"arguments": null', "{}"),
        ('"arguments": {}', "{}"),
        ('"x": 1', "{}"),
    ],
)
def test_arguments_in_a_string_or_missing(written: str, arguments: str) -> None:
    events = parse_every_cut(f'<tool_call>{{"name": "f", {written}}}</tool_call>', "hermes")
    assert calls(events) == [("f", arguments, True)]


@pytest.mark.parametrize(
    ("family", "text", "call_id", "name"),
    [
        (
            "kimi_k2",
            "<|tool_call_begin|>functions.a.b-c:12<|tool_call_argument_begin|>{}<|tool_call_end|>",
            "functions.a.b-c:12",
            "a.b-c",
        ),
        ("kimi_k2", "<|tool_call_begin|>f<|tool_call_argument_begin|>{}<|tool_call_end|>", None, "f"),
        ("mistral", "[TOOL_CALLS]f[CALL_ID]VvvODy9mT[ARGS]{}", "VvvODy9mT", "f"),
        ("mistral", "[TOOL_CALLS]f[ARGS]{}", None, "f"),
    ],
)
def test_ids_that_the_model_gives(family: str, text: str, call_id: str | None, name: str) -> None:
    assert parse_every_cut(text, family)[0] == CallBegin(0, name, call_id)


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("hermes", "<tool_call> is a marker, </tool_call> another"),
        ("hermes", '<tool_call>{"no": "name"}</tool_call>'),
        ("hermes", '<tool_call>{"name": 5}</tool_call>'),
        ("hermes", '<tool_call>{"name": ""}</tool_call>'),
        ("hermes", "<tool_call>{'name': 'f'}</tool_call>"),
        ("hermes", "<tool_call>{}</tool_call> tail"),
        ("hermes", "a </tool_call> b"),
        ("hermes", "5 <tool_ 6 <"),
        ("hermes", '{"name": "get_weather", "arguments": {}}'),
        ("mistral", "[TOOL_CALLS] none today"),
        ("mistral", "[TOOL_CALLSX"),
        ("llama3", '{"name": "Bob", "parameters": {}}'),
        ("llama3", '{"name": "get_weather", "born": 1}'),
        ("llama3", '{"answer": {"name": "get_weather", "parameters": {}}} done'),
        ("llama3", '[1, {"name": "get_weather", "parameters": {}}]'),
        ("llama3", 'if (x) { "name" }; {x: {"y"'),
        ("llama3", "<|python_tag|>print(1)"),
        ("pythonic", "[1, 2] and [get_weather] and [other(a=1)] and [get_weather(1)]"),
        ("deepseekv3", "<｜tool▁calls▁begin｜> no calls <｜tool▁calls▁end｜>"),
        ("glm45", "<tool_call>one two</tool_call>"),
        ("qwen3_coder", "<tool_call>\n<functions>\n</tool_call>"),
        ("gemma4", "<|tool_call>call:no braces<tool_call|>"),
        ("gemma3", "```tool_code\nfor x in y: pass\n```"),
        ("json_array", '[{"a": 1}]'),
        ("hermes", "  \n"),
        ("hermes", ""),
    ],
)
def test_what_is_no_call_is_content(family: str, text: str) -> None:
    assert parse_every_cut(text, family) == ([Content(text)] if text else [])


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("hermes", "<tool_call>[]</tool_call>"),
        ("granite", "<|tool_call|>[ ]"),
        ("jamba", "<tool_calls>[]</tool_calls>"),
        ("kimi_k2", "<|tool_calls_section_begin|> <|tool_calls_section_end|>"),
        ("deepseekv32", "<｜DSML｜function_calls>\n</｜DSML｜function_calls>"),
        ("minimax-m3", "]<]minimax[>[<tool_call>]<]minimax[>[</tool_call>"),
        ("lfm2", "<|tool_call_start|>[]<|tool_call_end|>"),
    ],
)
def test_no_calls_say_nothing(family: str, text: str) -> None:
    assert parse_every_cut(f"Well. {text} So.", family) == [Content("Well.  So.")]


@pytest.mark.parametrize(
    ("text", "found", "around"),
    [
        # Surplus and missing brackets around complete arguments.
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}}\n</tool_call>x', [("f", '{"a": 1}', True)], "x"),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}\n</tool_call>x', [("f", '{"a": 1}', True)], "x"),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}} x', [("f", '{"a": 1}', True)], " x"),
        ('<tool_call>{"name": "f", "arguments": {}} x </tool_call> y', [("f", "{}", True)], " x  y"),
        # Several in one section.
        (
            '<tool_call>{"name": "f"}\n{"name": "g", "arguments": {"b": 2}}</tool_call>',
            [("f", "{}", True), ("g", '{"b": 2}', True)],
            "",
        ),
        ('<tool_call>[{"name": "f"}, {"name": "g"}]</tool_call>', [("f", "{}", True), ("g", "{}", True)], ""),
        # Broken arguments: up to the end of the call, all is theirs.
        (
            'a<tool_call>{"name": "f", "arguments": {"a": "b"c"}}</tool_call>d',
            [("f", '{"a": "b"c"}}', False)],
            "ad",
        ),
        (
            '<tool_call>{"name": "f", "arguments": {"a": [1}}<tool_call>{"name": "g"}</tool_call>',
            [("f", '{"a": [1}}', False), ("g", "{}", True)],
            "",
        ),
        ('<tool_call>{"name": "f", "arguments": 5}</tool_call>', [("f", "5}", False)], ""),
        ('<tool_call>{"name": "f", "arguments": "no"}</tool_call>', [("f", "no", False)], ""),
        # The first is no call, the second is one.
        ('<tool_call><tool_call>{"name": "f"}</tool_call>', [("f", "{}", True)], "<tool_call>"),
        ('<tool_call>\n{"a<tool_call>{"name": "f"}</tool_call>', [("f", "{}", True)], '<tool_call>\n{"a'),
    ],
)
def test_hermes_around_the_rules(text: str, found: list[tuple[str, str, bool]], around: str) -> None:
    events = parse_every_cut(text, "hermes")
    assert calls(events) == found
    assert content(events) == around


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("\n  x \n\n", "  x \n"),
        ("x", "x"),
        ("", ""),
        ("\n\n", ""),
        ("\n</tool_call></function>\n", "</tool_call></function>"),
        ('\na "b" \\n\tc\n', 'a "b" \\n\tc'),
    ],
)
def test_tagged_strings_keep_their_space(value: str, read: str) -> None:
    text = (
        f"<tool_call>\n<function=get_weather>\n<parameter=city>{value}</parameter>\n</function>\n</tool_call>"
    )
    assert complete_calls(parse_every_cut(text, "qwen3_coder")) == [("get_weather", {"city": read})]


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("city", "5", "5"),
        ("city", "null", "null"),
        ("note", "null", None),
        ("note", "nullable", "nullable"),
        ("note", "nul", "nul"),
        ("days", "5", 5),
        ("days", " 5 ", 5),
        ("days", "five", "five"),
        ("sure", "True", True),
        ("sure", "false", False),
        ("deep", "{'a': (1, None)}", {"a": [1, None]}),
        ("list", "[1, 2", "[1, 2"),
        ("rate", "1e5", 1e5),
        ("rate", "NaN", "NaN"),
        ("other", "5", "5"),
    ],
)
def test_tagged_values_have_the_schemas_types(key: str, value: str, read: object) -> None:
    text = f"<tool_call>get_weather<arg_key>{key}</arg_key><arg_value>{value}</arg_value></tool_call>"
    assert complete_calls(parse_every_cut(text, "glm47")) == [("get_weather", {key: read})]


def test_values_without_a_schema_are_json_or_a_string() -> None:
    pairs = {"a": "5", "b": "five", "c": "[1]", "d": '"quoted"'}
    tags = "".join(f"<arg_key>{key}</arg_key><arg_value>{value}</arg_value>" for key, value in pairs.items())
    events = parse_every_cut(f"<tool_call>f{tags}</tool_call>", "glm47", functions=[Function("f")])
    assert complete_calls(events) == [("f", {"a": 5, "b": "five", "c": [1], "d": '"quoted"'})]


def test_python_literals() -> None:
    text = (
        "[get_weather(city='it\\'s \"x\"\\n\\u00e9', note=None, days=-1,list=[1, (2,), {'a': True}], "
        'deep={"k": """a"b"""}, sure=false, rate=+.5, ), get_time( )]'
    )
    found = {
        "city": 'it\'s "x"\né',
        "note": None,
        "days": -1,
        "list": [1, [2], {"a": True}],
        "deep": {"k": 'a"b'},
        "sure": False,
        "rate": 0.5,
    }
    assert complete_calls(parse_every_cut(text, "pythonic")) == [("get_weather", found), ("get_time", {})]


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("pythonic", "[get_weather(city=__import__('os'), days=1)]"),
        ("pythonic", "[get_weather(city=" + "[" * 500 + "]" * 500 + ")]"),
        ("gemma4", "<|tool_call>call:f{a:" + "[" * 500 + "]" * 500 + "}<tool_call|>"),
        ("gemma4", "<|tool_call>call:f{a:,}<tool_call|>"),
        ("glm47", "<tool_call>f<arg_key>a</arg_key>x</tool_call>"),
        ("deepseekv31", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{x}<｜tool▁call▁end｜>"),
    ],
)
def test_a_broken_call_is_reported_as_such(family: str, text: str) -> None:
    assert [complete for _, _, complete in calls(parse_every_cut(text, family))] == [False]


def test_deep_json_arguments_are_no_trouble() -> None:
    deep = '{"a": ' + "[" * 20000 + "]" * 20000 + "}"
    events, _ = parse(f'<tool_call>{{"name": "f", "arguments": {deep}}}</tool_call>', "hermes")
    assert calls(events) == [("f", deep, True)]


def test_events_come_as_early_as_they_are_certain() -> None:
    parser = OutputParser(OutputFormat(TOOL_FORMATS["hermes"]), [Function("f")], "")
    assert parser.feed("Hi ") == [Content("Hi ")]
    assert parser.feed("a<") == [Content("a")]
    assert parser.feed("b<tool_call>") == [Content("<b")]
    assert parser.feed('{"name": "f"') == [CallBegin(0, "f")]
    assert parser.feed(', "arguments": {"a') == [CallArguments(0, '{"a')]
    assert parser.feed('": "\\') == [CallArguments(0, '": "\\')]
    assert parser.feed('"x') == [CallArguments(0, '"x')]
    assert parser.feed('"}') == [CallArguments(0, '"}')]
    assert parser.feed("}") == [CallEnd(0)]
    assert parser.feed("</tool_call>\n") == []
    assert parser.finish() == []


def test_a_json_answer_is_not_held_back() -> None:
    parser = OutputParser(OutputFormat(TOOL_FORMATS["llama3"]), [Function("f")], "")
    assert parser.feed('{"city": ') == [Content('{"city": ')]
    assert parser.feed('"Bern", "x": {"name": "f"') == [Content('"Bern", "x": {"name": "f"')]


CODER = "<tool_call>\n<function=get_weather>\n{}</function>\n</tool_call>"
DSML = (
    '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
    "<｜DSML｜parameter name={}</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>"
)
DALLAS: dict[str, object] = {"city": "Dallas", "days": 5}


@pytest.mark.parametrize(
    ("family", "text", "arguments"),
    [
        # A value's end forgotten, in the middle and at the end; the call's own end; the marks before it.
        (
            "qwen3_coder",
            CODER.format("<parameter=city>\nDallas\n<parameter=days>\n5\n</parameter>\n"),
            DALLAS,
        ),
        (
            "qwen3_coder",
            CODER.format("<parameter=days>\n5\n</parameter>\n<parameter=city>\nDallas\n"),
            DALLAS,
        ),
        (
            "qwen3_coder",
            CODER.format("<parameter=city>\na\n</function>\n</parameter>\n"),
            {"city": "a\n</function>"},
        ),
        (
            "qwen3_coder",
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nDallas\n</parameter>\n</tool_call>",
            {"city": "Dallas"},
        ),
        ("mimo", CODER.format("<parameter=city>Dallas\n<parameter=days>5</parameter>\n"), DALLAS),
        # JSON in place of tags.
        (
            "qwen3_coder",
            '<tool_call>\n{"name": "get_weather", "arguments": {"city": "x"}}\n</tool_call>',
            {"city": "x"},
        ),
        (
            "dots",
            '<dots_function_call>{"name": "get_weather", "arguments": {"city": "x"}}</dots_function_call>',
            {"city": "x"},
        ),
        # All arguments in one parameter that the function has not.
        (
            "deepseekv32",
            DSML.format('"arguments" string="false">{"city": "x"}'),
            {"city": "x"},
        ),
        (
            "deepseekv32",
            DSML.format('"input" string="true">text'),
            {"input": "text"},
        ),
        ("gemma4", "<|tool_call>call:get_weather{city:,days:5}<tool_call|>", {"city": "", "days": 5}),
        (
            "gemma4",
            '<|tool_call>call:get_weather{deep:{<|"|>3<|"|>:<|"|>x<|"|>}}<tool_call|>',
            {"deep": {"3": "x"}},
        ),
        (
            "internlm",
            '<|action_start|><|plugin|>\n{"name": "get_weather", "parameters": {}}<|action_end|>',
            {},
        ),
        ("llama3", '{"name": "get_weather", "parameters": {"city": "x"}};', {"city": "x"}),
        (
            "minicpm5",
            '<function name="get_weather"><param name="city"><![CDATA[</param>]]></param></function>',
            {"city": "</param>"},
        ),
        # What Python would not take: quotes and line breaks without an escape, numbers with zeros before.
        (
            "lfm2",
            "<|tool_call_start|>[get_weather(city='sed -n '3,4p' f')]<|tool_call_end|>",
            {"city": "sed -n '3,4p' f"},
        ),
        (
            "lfm2",
            "<|tool_call_start|>[get_weather(city='a\nb\x00' , days=07)]<|tool_call_end|>",
            {"city": "a\nb\x00", "days": 7},
        ),
    ],
)
def test_calls_that_models_write_otherwise(family: str, text: str, arguments: dict[str, object]) -> None:
    events = parse_every_cut(text, family)
    assert complete_calls(events) == [("get_weather", arguments)]
    assert content(events) == ""


ORDER = {
    "type": "object",
    "properties": {
        "user": {"type": "integer"},
        "note": {"type": "string"},
        "ship": {"type": "object", "properties": {"zip": {"type": "string"}}},
        "items": {
            "anyOf": [{"type": "array", "items": {"$ref": "#/$defs/item"}}, {"type": "null"}],
        },
        "meta": {"type": "object", "additionalProperties": {"type": "string"}},
        "free": {"type": "object"},
        "none": {"type": "array"},
    },
    "$defs": {
        "item": {"type": "object", "properties": {"sku": {"type": "string"}, "count": {"type": "integer"}}}
    },
}


def test_tags_within_tags() -> None:
    text = (
        'So.\n~<tool_call>\n~<invoke name="order">~<user>42~</user>~<note> a < b\n~</note>\n'
        "~<ship>\n~<zip>018~</zip>\n~</ship>~<items>~<item>~<sku>1~</sku>~<count>2~</count>~</item>"
        "~<item>~<sku>x~</sku>~</item>~</items>~<meta>~<source>5~</source>~</meta>"
        "~<free>~<tag>a~</tag>~<tag>5~</tag>~<list>~<item>1~</item>~</list>~</free>~<none>~</none>"
        '~</invoke>\n~<invoke name="order">\n~</invoke>\n~</tool_call>'
    ).replace("~", "]<]minimax[>[")
    events = parse_every_cut(text, "minimax-m3", functions=[Function("order", ORDER)])
    assert content(events) == "So.\n"
    order = {
        "user": 42,
        "note": " a < b\n",
        "ship": {"zip": "018"},
        "items": [{"sku": "1", "count": 2}, {"sku": "x"}],
        "meta": {"source": "5"},
        "free": {"tag": ["a", 5], "list": [1]},
        "none": [],
    }
    assert complete_calls(events) == [("order", order), ("order", {})]


@pytest.mark.parametrize("inside", ["~<a>~<b>1~</a>", "~<a>1", "~<a>x~<b>1~</b>~</a>", "~<>1~</>", "no tags"])
def test_tags_that_do_not_nest_break_the_call(inside: str) -> None:
    text = f'~<tool_call>~<invoke name="order">{inside}~</invoke>~</tool_call>!'.replace("~", "]<]minimax[>[")
    events = parse_every_cut(text, "minimax-m3", functions=[Function("order", ORDER)])
    assert [complete for _, _, complete in calls(events)] == [False]
    assert "minimax" not in content(events)


@pytest.mark.parametrize(
    ("family", "text", "read"),
    [
        ("deepseekv3", "Well.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>funct", "Well."),
        ("deepseekv32", "Well.\n\n<｜DSML｜function_c", "Well.\n\n"),
        ("gpt-oss", "<|channel|>final<|message|>Well.<|en", "Well.<|en"),
        ("hermes", "Well. <tool_c", "Well. <tool_c"),
        ("kimi_k3", "Well.<|open|>too", "Well."),
        ("minimax-m3", "Well.]<]minimax[>[<tool", "Well."),
        ("minimax-m3", "Well.]<]mini", "Well.]<]mini"),
    ],
)
def test_a_text_that_ends_in_a_marker_does_not_show_it(family: str, text: str, read: str) -> None:
    events = parse_every_cut(text, family)
    assert (content(events), calls(events)) == (read, [])

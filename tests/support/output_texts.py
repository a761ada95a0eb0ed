"""Writes calls as the model families do, and parses them again, cut in every way.

The texts do not come from the formats on purpose, because the formats are tested against them.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from inferd.services.text.function import Function
from inferd.services.text.output.events import CallArguments, CallBegin, CallEnd, Content, Event, Reasoning
from inferd.services.text.output.formats import OutputFormat
from inferd.services.text.output.parser import OutputParser
from inferd.services.text.output.reasoning_families import REASONING_FORMATS
from inferd.services.text.output.tool_families import TOOL_FORMATS

Call = tuple[str, dict[str, Any]]

TYPED = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "days": {"type": "integer"},
        "deep": {"type": "object"},
        "list": {"type": "array"},
        "sure": {"type": "boolean"},
        "rate": {"type": "number"},
    },
}
FUNCTIONS = (Function("get_weather", TYPED), Function("get_time", {"type": "object", "properties": {}}))


def parse(
    text: str,
    tools: str | None = None,
    reasoning: str | None = None,
    *,
    prompt_end: str = "",
    cuts: Iterable[int] = (),
    functions: Sequence[Function] = FUNCTIONS,
) -> tuple[list[Event], int | None]:
    """The events of the text cut at these places, joined; and where the reasoning ended."""
    format = OutputFormat(
        TOOL_FORMATS[tools] if tools else None, REASONING_FORMATS[reasoning] if reasoning else None
    )
    parser = OutputParser(format, functions, prompt_end)
    events: list[Event] = []
    begin = 0
    for cut in (*cuts, len(text)):
        events += parser.feed(text[begin:cut])
        begin = cut
    return joined([*events, *parser.finish()]), parser.reasoning_end


def parse_every_cut(text: str, *args: Any, step: int = 1, **kwargs: Any) -> list[Event]:
    """The events, which are the same for one piece, for single characters and for every single cut (or for
    those at a multiple of `step`)."""
    whole = parse(text, *args, **kwargs)
    assert parse(text, *args, cuts=range(1, len(text)), **kwargs) == whole
    for cut in range(step, len(text), step):
        assert parse(text, *args, cuts=(cut,), **kwargs) == whole, f"cut at {cut}"
    return whole[0]


def joined(events: Iterable[Event]) -> list[Event]:
    """Pieces of the same text put together."""
    result: list[Event] = []
    for event in events:
        match result[-1] if result else None, event:
            case (Content(before), Content(text)):
                result[-1] = Content(before + text)
            case (Reasoning(before), Reasoning(text)):
                result[-1] = Reasoning(before + text)
            case (CallArguments(index, before), CallArguments(same, text)) if index == same:
                result[-1] = CallArguments(index, before + text)
            case _:
                result.append(event)
    return result


def content(events: Iterable[Event]) -> str:
    """All the content."""
    return "".join(event.text for event in events if isinstance(event, Content))


def calls(events: Iterable[Event]) -> list[tuple[str, str, bool]]:
    """Name, arguments and completeness of each call."""
    found: list[tuple[str, str, bool]] = []
    for event in events:
        match event:
            case CallBegin(index, name, _):
                assert index == len(found)
                found.append((name, "", False))
            case CallArguments(index, text):
                name, before, _ = found[index]
                found[index] = (name, before + text, False)
            case CallEnd(index, complete):
                found[index] = (*found[index][:2], complete)
    return found


def complete_calls(events: Iterable[Event]) -> list[Call]:
    """The calls, all of them complete."""
    found = calls(events)
    assert all(complete for _, _, complete in found), found
    return [(name, json.loads(arguments)) for name, arguments, _ in found]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _each(
    write: Callable[[str, dict[str, Any]], str], joint: str = "", begin: str = "", end: str = ""
) -> Any:
    return lambda found: begin + joint.join(write(name, arguments) for name, arguments in found) + end


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _tagged(begin: str, between: str, end: str, head: str, tail: str) -> Callable[[str, dict[str, Any]], str]:
    def write(name: str, arguments: dict[str, Any]) -> str:
        tags = "".join(f"{begin}{key}{between}{_bare(value)}{end}" for key, value in arguments.items())
        return head.replace("NAME", name) + tags + tail

    return write


def _dsml(call_tag: str, parameter_tag: str) -> Callable[[str, dict[str, Any]], str]:
    def write(name: str, arguments: dict[str, Any]) -> str:
        tags = "".join(
            f'<{parameter_tag} name="{key}" string="{"true" if isinstance(value, str) else "false"}">'
            f"{_bare(value)}</{parameter_tag}>\n"
            for key, value in arguments.items()
        )
        return f'<{call_tag} name="{name}">\n{tags}</{call_tag}>\n'

    return write


def _gemma(value: Any, quote: str) -> str:
    match value:
        case str():
            return quote + value + quote
        case dict():
            return "{" + ",".join(f"{key}:{_gemma(item, quote)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ",".join(_gemma(item, quote) for item in value) + "]"
        case _:
            return _json(value)


def _python(name: str, arguments: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def _kimi(found: Sequence[Call]) -> str:
    written = "".join(
        f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>{_json(arguments)}"
        "<|tool_call_end|>"
        for index, (name, arguments) in enumerate(found)
    )
    return f"<|tool_calls_section_begin|>{written}<|tool_calls_section_end|>"


def _named(begin: str, between: str, end: str) -> Callable[[str, dict[str, Any]], str]:
    return lambda name, arguments: f"{begin}{name}{between}{_json(arguments)}{end}"


def _in_json(key: str = "arguments", name_key: str = "name") -> Callable[[str, dict[str, Any]], str]:
    return lambda name, arguments: _json({name_key: name, key: arguments})


def _xtml(name: str, arguments: dict[str, Any]) -> str:
    def kind(value: Any) -> str:
        return "string" if isinstance(value, str) else "number" if isinstance(value, int) else "object"

    tags = "".join(
        f'<|open|>argument key="{key}" type="{kind(value)}"<|sep|>{_bare(value)}<|close|>argument<|sep|>'
        for key, value in arguments.items()
    )
    return f'<|open|>call tool="{name}" index="1"<|sep|>{tags}<|close|>call<|sep|>'


def _minimax_m3(name: str, arguments: dict[str, Any]) -> str:
    mark = "]<]minimax[>["
    tags = "".join(f"{mark}<{key}>{_bare(value)}{mark}</{key}>" for key, value in arguments.items())
    return f'{mark}<invoke name="{name}">{tags}{mark}</invoke>\n'


WRITERS: dict[str, Callable[[Sequence[Call]], str]] = {
    "hermes": _each(
        lambda name, arguments: f"<tool_call>\n{_in_json()(name, arguments)}\n</tool_call>", "\n"
    ),
    "qwen25": _each(lambda name, arguments: f"<tool_call>{_in_json()(name, arguments)}</tool_call>"),
    "mistral": _each(_in_json(), ", ", "[TOOL_CALLS] [", "]"),
    "mistral_v11": _each(_named("[TOOL_CALLS]", "[ARGS]", "")),
    "llama3": _each(_in_json("parameters"), "; "),
    "llama3_json": _each(_in_json("parameters"), "; ", "<|python_tag|>"),
    "interns1": _each(
        lambda name, arguments: "<|action_start|> <|plugin|>\n{}<|action_end|>".format(
            _in_json("parameters")(name, arguments)
        )
    ),
    "granite": _each(_in_json(), ", ", "<|tool_call|>[", "]"),
    "granite-20b-fc": _each(_named('<function_call> {"name": "', '", "arguments": ', "}"), "\n"),
    "phi4_mini_json": _each(_in_json(), ",", "functools[", "]"),
    "jamba": _each(_in_json(), ",\n", "<tool_calls>[\n", "\n]</tool_calls>"),
    "llama_nemotron_json": _each(_in_json(), ", ", "<TOOLCALL>[", "]</TOOLCALL>"),
    "cohere_command4": _each(
        lambda name, arguments: _json({"tool_call_id": "0", "tool_name": name, "parameters": arguments}),
        ",\n    ",
        "<|START_ACTION|>[\n    ",
        "\n]<|END_ACTION|>",
    ),
    "apertus2509": _each(
        lambda name, arguments: _json({name: arguments}), ", ", "<|tools_prefix|>[", "]<|tools_suffix|>"
    ),
    "gigachat3": _each(_in_json(), "", "<|function_call|>"),
    "xlam": _each(_in_json(), ", ", "[", "]"),
    "json_array": _each(_in_json("parameters"), ",", "[", "]"),
    "deepseekv3": _each(
        _named("<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n", "\n```<｜tool▁call▁end｜>"),
        "\n",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
    ),
    "deepseekv31": _each(
        _named("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
        "",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
    ),
    "kimi_k2": _kimi,
    "gemma4": _each(
        lambda name, arguments: "<|tool_call>call:{}{}<tool_call|>".format(name, _gemma(arguments, '<|"|>'))
    ),
    "functiongemma": _each(
        lambda name, arguments: "<start_function_call>call:{}{}<end_function_call>".format(
            name, _gemma(arguments, "<escape>")
        )
    ),
    "qwen3_coder": _each(
        _tagged(
            "<parameter=",
            ">\n",
            "\n</parameter>\n",
            "<tool_call>\n<function=NAME>\n",
            "</function>\n</tool_call>",
        ),
        "\n",
    ),
    "mimo": _each(
        _tagged(
            "<parameter=",
            ">",
            "</parameter>\n",
            "<tool_call>\n<function=NAME>\n",
            "</function>\n</tool_call>",
        ),
        "\n",
    ),
    "seed_oss": _each(
        _tagged(
            "<parameter=",
            ">",
            "</parameter>\n",
            "<seed:tool_call>\n<function=NAME>\n",
            "</function>\n</seed:tool_call>",
        ),
    ),
    "glm45": _each(
        _tagged(
            "<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n", "<tool_call>NAME\n", "</tool_call>"
        ),
        "\n",
    ),
    "glm47": _each(
        _tagged("<arg_key>", "</arg_key><arg_value>", "</arg_value>", "<tool_call>NAME", "</tool_call>")
    ),
    "iquest_q1": _each(
        _tagged(
            "<arg_key>",
            "</arg_key><arg_value>",
            "</arg_value>",
            "<iquest_tool_call>NAME",
            "</iquest_tool_call>",
        )
    ),
    "hunyuan": _each(
        _tagged(
            "<arg_key>",
            "</arg_key>\n<arg_value>",
            "</arg_value>\n",
            "<tool_call>NAME<tool_sep>\n",
            "</tool_call>",
        ),
        "\n",
        "<tool_calls>\n",
        "\n</tool_calls>",
    ),
    "deepseekv32": _each(
        _dsml("｜DSML｜invoke", "｜DSML｜parameter"),
        "",
        "<｜DSML｜function_calls>\n",
        "</｜DSML｜function_calls>",
    ),
    "deepseekv4": _each(
        _dsml("｜DSML｜invoke", "｜DSML｜parameter"), "", "<｜DSML｜tool_calls>\n", "</｜DSML｜tool_calls>"
    ),
    "deepseekv41": _each(
        _dsml("｜DSML｜ invoke", "｜DSML｜ parameter"), "", "<｜DSML｜ calls>\n", "</｜DSML｜ calls>"
    ),
    "gigachat35": _each(
        _dsml("｜GCML｜invoke", "｜GCML｜parameter"), "", "<｜GCML｜tool_calls>\n", "</｜GCML｜tool_calls>"
    ),
    "minimax-m2": _each(
        _tagged('<parameter name="', '">', "</parameter>\n", '<invoke name="NAME">\n', "</invoke>\n"),
        "",
        "<minimax:tool_call>\n",
        "</minimax:tool_call>",
    ),
    "minimax-m3": _each(_minimax_m3, "", "]<]minimax[>[<tool_call>\n", "]<]minimax[>[</tool_call>"),
    "kimi_k3": _each(_xtml, "", "<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),
    "minicpm5": _each(
        _tagged('<param name="', '">', "</param>", '<function name="NAME">', "</function>"), "\n"
    ),
    "dots": _each(
        _tagged('<parameter name="', '">', "</parameter>\n", '<invoke name="NAME">\n', "</invoke>\n"),
        "",
        "<dots_function_call>\n",
        "</dots_function_call>",
    ),
    "step3": _each(
        _tagged(
            '<steptml:parameter name="',
            '">',
            "</steptml:parameter>\n",
            '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="NAME">\n',
            "</steptml:invoke><｜tool_call_end｜>\n",
        ),
        "",
        "<｜tool_calls_begin｜>\n",
        "<｜tool_calls_end｜>",
    ),
    "pythonic": _each(_python, ", ", "[", "]"),
    "llama4": _each(_python, ", ", "<|python_start|>[", "]<|python_end|>"),
    "lfm2": _each(_python, ", ", "<|tool_call_start|>[", "]<|tool_call_end|>"),
    "gemma3": _each(_python, ", ", "```tool_code\n[", "]\n```"),
    "olmo3": _each(_python, "\n", "<function_calls>", "</function_calls>"),
    "gpt-oss": _each(
        _named("<|channel|>commentary to=functions.", " <|constrain|>json<|message|>", "<|call|>"),
        "<|start|>assistant",
    ),
}

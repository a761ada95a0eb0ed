"""Builds the structural tag of an answer: reasoning, calls and content, written as the model's family writes
them. A structural tag is xgrammar's JSON language for what a model may write.

Checks nothing: callers pass schemas and forms that are checked already. Knows no request.
"""

from collections.abc import Mapping
from typing import Any

from inferd.services.text.output.format_types import HARMONY_CALLS, HarmonyCalls, ToolFormat
from inferd.services.text.output.formats import OutputFormat

#: One format of a structural tag, as a JSON object: see xgrammar/structural_tag.py.
Structure = dict[str, Any]

_ANY_TEXT: Structure = {"type": "any_text"}

_HARMONY_START = "<|start|>assistant"
_HARMONY_FINAL = "<|channel|>final<|message|>"


def json_document(schema: Structure) -> Structure:
    """A JSON document of this schema, with at most one whitespace character in a row.

    Without that limit, a weak model may write whitespace up to its last token.
    """
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": 1}


def can_constrain(tools: ToolFormat) -> bool:
    """Whether a structural tag can describe calls of this format."""
    return isinstance(tools.syntax, HarmonyCalls) or tools.call_frame("f") is not None


def calls_only(tools: ToolFormat, schemas: Mapping[str, Structure], *, single: bool) -> Structure:
    """One or more calls, and no other text.

    `schemas` gives the schema of the arguments for each function's name. `single`: exactly one call.
    `can_constrain(tools)` must be true.
    """
    if isinstance(tools.syntax, HarmonyCalls):
        call = _either([_harmony_call(name, schema) for name, schema in schemas.items()])
        if single:
            return call
        following = {"type": "star", "content": _sequence(_text(_HARMONY_START), call)}
        return _sequence(call, following)
    between = {
        "type": "tags_with_separator",
        "tags": _call_tags(tools, schemas),
        "separator": tools.separator,
        "at_least_one": True,
        "stop_after_first": single,
    }
    if tools.section_per_call:
        return between
    return _sequence(_text(tools.section_begin), between, _text(tools.section_end))


def text_with_calls(tools: ToolFormat, schemas: Mapping[str, Structure], *, single: bool) -> Structure:
    """Any text. A call in the text must be of one of the functions, with arguments of that function's schema.

    `single`: at most one call, which ends the text. `can_constrain(tools)` must be true.
    """
    if isinstance(tools.syntax, HarmonyCalls):
        return _either(
            [calls_only(tools, schemas, single=single), _sequence(_text(_HARMONY_FINAL), _ANY_TEXT)]
        )
    if tools.section_begin and not tools.section_per_call:
        tags = [
            {
                "type": "tag",
                "begin": tools.section_begin,
                "content": {
                    "type": "tags_with_separator",
                    "tags": _call_tags(tools, schemas),
                    "separator": tools.separator,
                    "at_least_one": True,
                    "stop_after_first": single,
                },
                "end": tools.section_end,
            }
        ]
        begin = tools.section_begin
    else:
        tags = _call_tags(tools, schemas)
        begin = (tools.section_begin if tools.section_per_call else "") + tools.call_begin
    return {
        "type": "triggered_tags",
        "triggers": [_trigger(tools, begin)],
        "tags": tags,
        "stop_after_first": single,
    }


def calls_or_form(
    tools: ToolFormat, schemas: Mapping[str, Structure], form: Structure, *, single: bool
) -> Structure:
    """Either calls alone, or content of this form alone. `can_constrain(tools)` must be true."""
    if isinstance(tools.syntax, HarmonyCalls):
        form = _sequence(_text(_HARMONY_FINAL), form)
    return _either([calls_only(tools, schemas, single=single), form])


def whole_answer(
    form: Structure, format: OutputFormat, prompt_end: str, *, gap: bool, message: bool
) -> Structure:
    """The whole answer: the reasoning that may come first, and then this form.

    `prompt_end` is the end of the prompt, which may open or close the reasoning. `gap`: up to two line breaks
    may stand between the two. `message`: the form is content and no call; harmony puts content in a message.
    """
    if is_harmony(format):
        return _harmony_answer(form, prompt_end, message=message)
    reasoning = format.reasoning
    opened = reasoning.opened_by(prompt_end) if reasoning else False
    if reasoning is None or opened is False:
        return form
    begin = "" if opened or reasoning.forced else reasoning.begin
    thought: Structure = {"type": "tag", "begin": begin, "content": _ANY_TEXT, "end": reasoning.end}
    if gap:
        thought = _sequence(thought, {"type": "regex", "pattern": r"\n{0,2}"})
    return _sequence({"type": "optional", "content": thought} if begin else thought, form)


def has_preamble(format: OutputFormat, prompt_end: str) -> bool:
    """Whether reasoning, or the header of a harmony message, may come before the content of an answer."""
    if is_harmony(format):
        return True
    return format.reasoning is not None and format.reasoning.opened_by(prompt_end) is not False


def is_harmony(format: OutputFormat) -> bool:
    """Whether the whole answer is written in harmony, the format of gpt-oss."""
    by_tools = format.tools is not None and isinstance(format.tools.syntax, HarmonyCalls)
    return by_tools or (format.reasoning is not None and format.reasoning.harmony)


def _call_tags(tools: ToolFormat, schemas: Mapping[str, Structure]) -> list[Structure]:
    tags: list[Structure] = []
    for name, schema in schemas.items():
        frame = tools.call_frame(name)
        assert frame is not None  # `can_constrain`
        begin, end = frame
        content = json_document(schema)
        if tools.arguments_style != "json":
            content = {"type": "json_schema", "json_schema": schema, "style": tools.arguments_style}
        if tools.name_template.endswith("0"):
            # The format has the number of an answer's first call, which is 0. Later calls count on.
            begin = begin.removesuffix("0" + tools.call_name_end)
            content = _sequence({"type": "regex", "pattern": r"\d{1,3}"}, _text(tools.call_name_end), content)
        tags.append({"type": "tag", "begin": begin, "content": content, "end": end})
    return tags


def _trigger(tools: ToolFormat, begin: str) -> str:
    """The text that starts the enforcement of a call: the longest marker that `begin` starts with.

    Not all of `begin`, because a model may write other whitespace after the marker.
    """
    marks = [marker for marker in tools.markers if begin.startswith(marker)]
    return max(marks, key=len) if marks else begin


def _harmony_call(name: str, schema: Structure) -> Structure:
    # Optional because <|call|> is a stop token: an engine that stops at it does not match it as text.
    return _sequence(
        _either([_text(begin.format(name)) for begin in HARMONY_CALLS]),
        json_document(schema),
        {"type": "optional", "content": _text("<|call|>")},
    )


def _harmony_answer(form: Structure, prompt_end: str, *, message: bool) -> Structure:
    """Any number of messages on the channels analysis and commentary, and then the form."""
    _, _, opened = prompt_end.rpartition("<|start|>")
    if message:
        form = _sequence(_text(_HARMONY_FINAL), form)
    before = [
        {"type": "tag", "begin": f"<|channel|>{channel}<|message|>", "content": _ANY_TEXT, "end": "<|end|>"}
        for channel in ("analysis", "commentary")
    ]
    start = _text(_HARMONY_START)
    parts: list[Structure] = [{"type": "star", "content": _sequence(_either(before), start)}, form]
    if "<|message|>" in opened:
        # The prompt ends inside a message, and the answer continues that message.
        if "analysis" not in opened:
            return form["elements"][1] if message else form
        parts = [{"type": "tag", "begin": "", "content": _ANY_TEXT, "end": "<|end|>"}, start, *parts]
    return _sequence(*parts)


def _text(value: str) -> Structure:
    return {"type": "const_string", "value": value}


def _sequence(*parts: Structure) -> Structure:
    kept = [part for part in parts if part != _text("")]
    return kept[0] if len(kept) == 1 else {"type": "sequence", "elements": kept}


def _either(forms: list[Structure]) -> Structure:
    return forms[0] if len(forms) == 1 else {"type": "or", "elements": forms}

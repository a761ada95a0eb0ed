"""The constraint of a request, tried on the engine's own grammars, in the form of each model family."""

import json

import grpc
import jsonschema
import pytest
from google.protobuf.json_format import ParseDict

from inferd.services.constraints.answer_structure import can_constrain
from inferd.services.constraints.output_constraint import output_constraint, text_constraint
from inferd.services.errors import ServiceError
from inferd.services.text.function import Function, FunctionChoice
from inferd.services.text.output.events import CallArguments, CallBegin, CallEnd, Content
from inferd.services.text.output.formats import OutputFormat
from inferd.services.text.output.parser import OutputParser
from inferd.services.text.output.reasoning_families import REASONING_FORMATS
from inferd.services.text.output.tool_families import JSON_ARRAY, TOOL_FORMATS
from inferd.v1 import chat_pb2, completion_pb2
from tests.support.grammar import Grammar, documents

PLAIN = OutputFormat()
QWEN = OutputFormat(TOOL_FORMATS["qwen"], None)
THINKING_QWEN = OutputFormat(TOOL_FORMATS["qwen"], REASONING_FORMATS["qwen3"])
AUTO, REQUIRED, ONLY, NONE = (
    FunctionChoice("auto"),
    FunctionChoice("required"),
    FunctionChoice("required", "weather"),
    FunctionChoice("none"),
)

CITY = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/name"}, "days": {"type": "integer"}},
    "required": ["city"],
    "$defs": {"name": {"type": "string", "enum": ["Paris", "Oslo"]}},
}
WEATHER = Function("weather", CITY, field="tools[0].function")
CLOCK = Function("clock", None, field="tools[1].function")
STRICT = Function("weather", CITY, strict=True, field="tools[0].function")
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
ANSWER = {"response_format": {"json_schema": {"name": "n", "schema": json.dumps(POINT)}}}

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'


def chat(fields=None, functions=(), choice=AUTO, format=PLAIN, prompt_end=""):
    request = ParseDict(fields or {}, chat_pb2.CreateChatCompletionRequest())
    return output_constraint(
        request, functions=functions, choice=choice, format=format, prompt_end=prompt_end
    )


def grammar(*args, **options) -> Grammar:
    constraint, _ = chat(*args, **options)
    return Grammar(constraint)


def text(fields):
    return text_constraint(ParseDict(fields, completion_pb2.CreateCompletionRequest()))


def tagged(form) -> dict[str, object]:
    return {"response_format": {"structural_tag": {}, "tag_format": json.dumps(form)}}


# --- The answer's form -------------------------------------------------------------------------------------

FORMS = [
    ({"response_format": {"json_object": {}}}, "structural_tag", '{"a": [1]}', "[1]"),
    (ANSWER, "structural_tag", '{"x": 1}', '{"x": "1"}'),
    ({"regex": "(yes|no)!"}, "regex", "yes!", "yes"),
    ({"ebnf": 'root ::= "a" root | "b"'}, "ebnf", "aab", "aa"),
    ({"choice": ["yes", "no (why?)"]}, "structural_tag", "no (why?)", "maybe"),
    ({"choice": ["one"]}, "structural_tag", "one", "two"),
    (
        tagged(
            {"type": "sequence", "elements": [{"type": "const_string", "value": "a"}, {"type": "any_text"}]}
        ),
        "structural_tag",
        "ab",
        "b",
    ),
    (
        {
            "response_format": {
                "structural_tag": {},
                "structures": [{"begin": "<f>", "schema": json.dumps(POINT), "end": "</f>"}],
                "triggers": ["<f"],
            }
        },
        "structural_tag",
        'so <f>{"x": 1}</f> it is',
        "so <f>{}</f>",
    ),
]


@pytest.mark.parametrize(("fields", "kind", "allowed", "refused"), FORMS, ids=lambda value: str(value)[:40])
def test_a_form_is_enforced_in_both_services(fields, kind, allowed, refused):
    constraint, tools = chat(fields)
    assert tools is None
    assert text(fields) == constraint
    assert constraint.kind == kind
    assert Grammar(constraint).accepts(allowed)
    assert not Grammar(constraint).accepts(refused)


def test_a_completion_takes_a_schema_by_itself():
    constraint = text({"json_schema": json.dumps(POINT)})
    assert (constraint.kind, constraint.field) == ("structural_tag", "json_schema")
    for document in documents(constraint):
        jsonschema.validate(document, POINT)


def test_a_document_has_no_runs_of_spaces():
    """A weak model would write only spaces."""
    grammar = Grammar(text(ANSWER))
    assert grammar.accepts('{"x": 1}') and grammar.accepts('{\n"x":1 }')
    assert not grammar.accepts('{  "x": 1}') and not grammar.accepts('{"x":\n 1}')


@pytest.mark.parametrize("fields", [{}, {"response_format": {"text": {}}}])
def test_free_text_is_not_constrained(fields):
    assert chat(fields) == (None, None)
    assert text(fields) is None


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"regex": ""}, "regex", "must not be empty"),
        ({"ebnf": ""}, "ebnf", "must not be empty"),
        ({"choice": ["a", ""]}, "choice[1]", "must not be empty"),
        ({"regex": "a", "ebnf": "b"}, "ebnf", "regex and ebnf"),
        ({**ANSWER, "choice": ["a"]}, "choice", "response_format and choice"),
        ({"regex": "(?=a)"}, "regex", "lookahead"),
        (
            {"response_format": {"json_schema": {"name": "n", "schema": '{"items": {"type": "x"}}'}}},
            "response_format.json_schema.schema.items.type",
            "no JSON Schema",
        ),
        ({"response_format": {"structural_tag": {}}}, "response_format.structures", "required"),
        (tagged([]), "response_format.format", "JSON object"),
        (tagged({"type": "nope"}), "response_format.format.type", "one of"),
        (tagged({"type": "or", "elements": 1}), "response_format.format.elements", "list"),
        (
            tagged({"type": "star", "content": {"type": "regex", "pattern": "\\b"}}),
            "response_format.format.content.pattern",
            "word boundaries",
        ),
        (
            tagged({"type": "json_schema", "json_schema": {"not": {}}}),
            "response_format.format.json_schema.not",
            "knows no not",
        ),
        (
            tagged({"type": "repeat", "min": 1, "max": 10**9, "content": {"type": "any_text"}}),
            "response_format.format",
            "at most",
        ),
        (
            {
                "response_format": {
                    "structural_tag": {},
                    "structures": [{"begin": "<f>", "schema": "{}", "end": "</f>"}],
                    "triggers": ["<g"],
                }
            },
            "response_format.structures[0].begin",
            "none of",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_form_that_cannot_be_is_refused_with_its_place(fields, field, problem):
    with pytest.raises(ServiceError) as caught:
        chat(fields)
    assert (caught.value.code, caught.value.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert problem in caught.value.message


# --- Calls -------------------------------------------------------------------------------------------------


def parsed(answer: str, format: OutputFormat, functions, prompt_end: str = ""):
    """The calls that the parser reads, as (name, arguments, whether complete), and the content."""
    parser = OutputParser(format, functions, prompt_end)
    calls, content = [], ""
    for event in [*parser.feed(answer), *parser.finish()]:
        match event:
            case CallBegin(name=name):
                calls.append([name, "", False])
            case CallArguments(index=index, text=part):
                calls[index][1] += part
            case CallEnd(index=index, complete=complete):
                calls[index][2] = complete
            case Content(text=part):
                content += part
    return [(name, json.loads(arguments), complete) for name, arguments, complete in calls], content


def written(tools, function: Function, arguments: str) -> str:
    """A call as the family's template writes it."""
    begin, end = tools.call_frame(function.name)
    begin = begin.replace("<|constrain|>", " <|constrain|>")
    if tools.section_per_call:
        return begin + arguments + end
    return tools.section_begin + begin + arguments + end + tools.section_end


EXPRESSIBLE = sorted({tools.name for tools in TOOL_FORMATS.values() if can_constrain(tools)})
IN_JSON = [name for name in EXPRESSIBLE if TOOL_FORMATS[name].arguments_style == "json"]
HARMONY = "<|start|>assistant"


def test_the_common_families_are_constrained_in_their_own_form():
    assert {
        "qwen",
        "mistral",
        "llama3",
        "deepseekv3",
        "deepseekv31",
        "deepseekv32",
        "kimi_k2",
        "gpt-oss",
    } <= set(EXPRESSIBLE)
    assert {"qwen3_coder", "glm45", "glm47", "minimax-m2"} <= set(EXPRESSIBLE)


@pytest.mark.parametrize("name", IN_JSON)
def test_what_a_template_writes_is_accepted_and_read_back(name):
    tools = TOOL_FORMATS[name]
    prompt_end = HARMONY if name == "gpt-oss" else ""
    constraint, form = chat(
        functions=[WEATHER, CLOCK], choice=REQUIRED, format=OutputFormat(tools), prompt_end=prompt_end
    )
    assert form == tools.enforced
    enforced = Grammar(constraint)
    call = written(tools, WEATHER, '{"city": "Oslo", "days": 3}')
    assert enforced.accepts(call)
    assert enforced.accepts(written(tools, CLOCK, "{}"))
    assert not enforced.accepts(written(tools, WEATHER, '{"city": "Rome"}'))
    assert not enforced.accepts(written(tools, WEATHER, '{"days": 3}'))
    assert not enforced.accepts(written(tools, CLOCK, '{"a": 1}'))
    assert not enforced.accepts(written(tools, Function("other"), "{}"))
    assert not enforced.accepts("no call")
    calls, content = parsed(call, OutputFormat(tools), [WEATHER, CLOCK], prompt_end)
    assert calls == [("weather", {"city": "Oslo", "days": 3}, True)]
    assert not content.strip()


@pytest.mark.parametrize("name", [name for name in EXPRESSIBLE if name != "gpt-oss"])
@pytest.mark.parametrize("choice", [REQUIRED, ONLY], ids=["required", "named"])
def test_every_text_that_is_allowed_is_calls_with_valid_arguments(name, choice):
    format = OutputFormat(TOOL_FORMATS[name])
    functions = [WEATHER] if choice is ONLY else [WEATHER, CLOCK]
    enforced = grammar(functions=functions, choice=choice, format=format)
    texts = [enforced.random_text(seed) for seed in range(8)]
    found = [parsed(answer, format, functions) for answer in texts if answer is not None]
    assert found
    for calls, content in found:
        assert calls
        assert not content.strip()
        assert choice is REQUIRED or len(calls) == 1
        for called, arguments, complete in calls:
            jsonschema.validate(arguments, CITY if called == "weather" else {"maxProperties": 0})
            assert complete


@pytest.mark.parametrize("name", [*EXPRESSIBLE, "pythonic"])
def test_no_beginning_of_a_forced_call_is_content(name):
    tools = TOOL_FORMATS[name]
    prompt_end = HARMONY if name == "gpt-oss" else ""
    functions = [CLOCK, WEATHER]
    constraint, form = chat(
        functions=functions, choice=REQUIRED, format=OutputFormat(tools), prompt_end=prompt_end
    )
    for seed in range(4):
        text = Grammar(constraint).random_text(seed)
        for end in range(len(text or "")):
            parser = OutputParser(OutputFormat(form), functions, prompt_end)
            events = [*parser.feed(text[:end]), *parser.finish(cut=True)]
            assert not any(isinstance(event, Content) for event in events), text[:end]


@pytest.mark.parametrize("tools", [None, TOOL_FORMATS["pythonic"]], ids=["none", "pythonic"])
def test_calls_that_have_no_form_to_be_enforced_in_are_a_json_array(tools):
    constraint, form = chat(functions=[WEATHER, CLOCK], choice=REQUIRED, format=OutputFormat(tools))
    assert form is JSON_ARRAY
    array = '[{"name": "weather", "parameters": {"city": "Oslo"}}, {"name": "clock", "parameters": {}}]'
    assert Grammar(constraint).accepts(array)
    assert not Grammar(constraint).accepts("[]")
    calls, _ = parsed(array, OutputFormat(JSON_ARRAY), [WEATHER, CLOCK])
    assert [call[0] for call in calls] == ["weather", "clock"]


def test_calls_are_one_or_more_and_one_where_it_is_asked_for():
    many = grammar(functions=[WEATHER, CLOCK], choice=REQUIRED, format=QWEN)
    assert many.accepts(f"{CALL}\n{NOW}\n{CALL}")
    one = grammar({"parallel_tool_calls": False}, functions=[WEATHER, CLOCK], choice=REQUIRED, format=QWEN)
    named = grammar(functions=[WEATHER], choice=ONLY, format=QWEN)
    for enforced in (one, named):
        assert enforced.accepts(CALL)
        assert not enforced.accepts(f"{CALL}\n{CALL}")


def test_the_calls_of_kimi_are_numbered():
    kimi = OutputFormat(TOOL_FORMATS["kimi_k2"])
    enforced = grammar(functions=[CLOCK], choice=REQUIRED, format=kimi)
    call = "<|tool_call_begin|>functions.clock:{}<|tool_call_argument_begin|>{{}}<|tool_call_end|>"
    section = f"<|tool_calls_section_begin|>{call.format(0)}{call.format(1)}<|tool_calls_section_end|>"
    assert enforced.accepts(section)


def test_auto_is_not_constrained_without_a_strict_function():
    assert chat(functions=[WEATHER], format=QWEN) == (None, QWEN.tools)
    assert chat(functions=[STRICT], format=PLAIN) == (None, None)


def test_auto_constrains_the_calls_that_begin_where_a_function_is_strict():
    enforced = grammar(functions=[STRICT, CLOCK], format=QWEN)
    assert enforced.accepts("Nothing to call.")
    assert enforced.accepts(f"Let me see. {CALL}")
    assert enforced.accepts(f"{CALL}\n{NOW}")
    assert enforced.accepts(NOW.replace("{}", '{"of": "another kind"}'))
    assert not enforced.accepts(CALL.replace("Oslo", "Rome"))
    assert not enforced.accepts(CALL.replace("weather", "other"))


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_strict_functions_and_forms_are_taken_in_every_family(name):
    tools = OutputFormat(TOOL_FORMATS[name])
    end = HARMONY if name == "gpt-oss" else ""
    final = "<|channel|>final<|message|>" if name == "gpt-oss" else ""
    assert grammar(functions=[STRICT, CLOCK], format=tools, prompt_end=end).accepts(final + "No calls.")
    assert grammar(ANSWER, functions=[STRICT], format=tools, prompt_end=end).accepts(final + '{"x": 1}')


def test_auto_with_a_form_is_calls_or_the_form():
    enforced = grammar(ANSWER, functions=[WEATHER], format=QWEN)
    assert enforced.accepts('{"x": 1}')
    assert enforced.accepts(CALL)
    assert not enforced.accepts("text")
    assert not enforced.accepts(CALL + '{"x": 1}')
    pythonic = OutputFormat(TOOL_FORMATS["pythonic"])
    constraint, form = chat(ANSWER, functions=[WEATHER], format=pythonic)
    assert (constraint.kind, form) == ("structural_tag", None)
    assert json.loads(constraint.text)["format"]["type"] == "json_schema"


@pytest.mark.parametrize("choice", [REQUIRED, ONLY], ids=["required", "named"])
@pytest.mark.parametrize(
    "fields", [ANSWER, {"regex": "a"}, {"ebnf": 'root ::= "a"'}, {"choice": ["a"]}], ids=str
)
def test_a_form_and_calls_that_must_be_are_refused(choice, fields):
    with pytest.raises(ServiceError, match="may not be used with this tool_choice"):
        chat(fields, functions=[WEATHER], choice=choice, format=QWEN)


def test_no_tools_leave_the_form_alone():
    assert chat(ANSWER, functions=[], choice=NONE, format=QWEN)[0] == text(ANSWER)


@pytest.mark.parametrize(
    ("function", "choice", "field"),
    [
        (Function("f", {"type": "x"}, field="tools[3].function"), AUTO, "tools[3].function.parameters.type"),
        (Function("f", {"not": {}}, field="functions[0]"), REQUIRED, "functions[0].parameters.not"),
        (Function("f", {"type": "array"}, field="functions[0]"), REQUIRED, "functions[0].parameters"),
    ],
)
def test_a_function_that_cannot_be_enforced_is_named(function, choice, field):
    with pytest.raises(ServiceError) as caught:
        chat(functions=[function], choice=choice, format=QWEN)
    assert caught.value.field == field


def test_the_constraint_names_the_function_or_all_of_them():
    assert chat(functions=[WEATHER], choice=ONLY)[0].field == "tools[0].function.parameters"
    assert chat(functions=[WEATHER, CLOCK], choice=REQUIRED)[0].field == "tools"


def test_too_many_schemas_together_are_refused():
    schema = {"type": "object", "properties": {"a": {"enum": ["x" * 100_000]}}}
    functions = [Function(f"f{i}", schema, field=f"tools[{i}].function") for i in range(8)]
    with pytest.raises(ServiceError, match="bytes of schemas"):
        chat(functions=functions, choice=REQUIRED, format=QWEN)


# --- Reasoning ---------------------------------------------------------------------------------------------

OPEN, CLOSED = "<|im_start|>assistant\n<think>\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_reasoning_comes_first_where_the_prompt_began_it():
    enforced = grammar({"choice": ["yes"]}, format=THINKING_QWEN, prompt_end=OPEN)
    assert enforced.accepts("hm, {\n</think>yes")
    assert not enforced.accepts("yes")
    assert not enforced.accepts("hm</think>no")


def test_reasoning_may_come_first_where_the_model_begins_it():
    enforced = grammar(ANSWER, format=THINKING_QWEN)
    assert enforced.accepts('{"x": 1}')
    assert enforced.accepts('<think>\nhm</think>\n\n{"x": 1}')
    assert not enforced.accepts('hm</think>\n\n{"x": 1}')


def test_reasoning_that_is_over_leaves_the_form_alone():
    assert chat(ANSWER, format=THINKING_QWEN, prompt_end=CLOSED)[0] == text(ANSWER)


def test_a_model_that_always_reasons_begins_inside():
    deepseek = OutputFormat(None, REASONING_FORMATS["deepseek-r1"])
    enforced = grammar(ANSWER, format=deepseek, prompt_end="<｜Assistant｜>")
    assert enforced.accepts('hm</think>{"x": 1}')
    assert enforced.accepts('<think>hm</think>{"x": 1}')
    assert not enforced.accepts('{"x": 1}')


def test_calls_come_after_reasoning():
    for choice in (REQUIRED, ONLY):
        enforced = grammar(functions=[WEATHER], choice=choice, format=THINKING_QWEN, prompt_end=OPEN)
        assert enforced.accepts(f"hm</think>\n\n{CALL}")
        assert not enforced.accepts(CALL)
    strict = grammar(functions=[STRICT], format=THINKING_QWEN, prompt_end=OPEN)
    assert strict.accepts(f"hm</think>\n\nSo {CALL}")
    assert not strict.accepts("hm</think>\n\n" + CALL.replace("Oslo", "Rome"))


# --- gpt-oss -----------------------------------------------------------------------------------------------

GPT_OSS = OutputFormat(TOOL_FORMATS["gpt-oss"], REASONING_FORMATS["gpt-oss"])
ANALYSIS = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
HARMONY_CALL = (
    '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>'
)


def test_gpt_oss_reasons_and_calls_in_messages():
    enforced = grammar(functions=[WEATHER], choice=REQUIRED, format=GPT_OSS, prompt_end=HARMONY)
    for before in ("", ANALYSIS, ANALYSIS * 2):
        assert enforced.accepts(before + HARMONY_CALL)
    # The engine may know the last marker as a stop token only.
    assert enforced.accepts(HARMONY_CALL.removesuffix("<|call|>"))
    assert not enforced.accepts(ANALYSIS + "<|channel|>final<|message|>no")
    assert not enforced.accepts(HARMONY_CALL.replace("Oslo", "Rome"))


def test_gpt_oss_answers_in_its_final_message():
    enforced = grammar(ANSWER, format=GPT_OSS, prompt_end=HARMONY)
    assert enforced.accepts(ANALYSIS + '<|channel|>final<|message|>{"x": 1}')
    assert not enforced.accepts('{"x": 1}')
    either = grammar(ANSWER, functions=[WEATHER], format=GPT_OSS, prompt_end=HARMONY)
    assert either.accepts(ANALYSIS + HARMONY_CALL)
    assert either.accepts(ANALYSIS + '<|channel|>final<|message|>{"x": 1}')
    assert not either.accepts("<|channel|>final<|message|>text")


def test_gpt_oss_goes_on_with_a_message_that_the_prompt_began():
    final = grammar(ANSWER, format=GPT_OSS, prompt_end=HARMONY + "<|channel|>final<|message|>")
    assert final.accepts('{"x": 1}')
    analysis = grammar(ANSWER, format=GPT_OSS, prompt_end=HARMONY + "<|channel|>analysis<|message|>")
    assert analysis.accepts('hm<|end|><|start|>assistant<|channel|>final<|message|>{"x": 1}')

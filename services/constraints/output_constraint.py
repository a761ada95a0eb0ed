"""The constraint that a request puts on its answer: response_format, regex, ebnf, choice and tools together.
The engine enforces the constraint token by token.

Decides which constraint applies. `answer_structure` builds the structural tag; the other modules check that
the engine can enforce schemas, expressions and grammars.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from inferd.services.constraints import answer_structure
from inferd.services.constraints.answer_structure import Structure
from inferd.services.constraints.client_structural_tag import parse_format, triggered_tags
from inferd.services.constraints.ebnf import check_grammar
from inferd.services.constraints.engine_schema import engine_schema
from inferd.services.constraints.json_schema import check_schema, invalid_constraint, parse_schema
from inferd.services.constraints.regex import check_pattern
from inferd.services.errors import invalid
from inferd.services.runtimes.base import Constraint
from inferd.services.text.function import Function, FunctionChoice
from inferd.services.text.output.format_types import ToolFormat
from inferd.services.text.output.formats import OutputFormat
from inferd.services.text.output.tool_families import JSON_ARRAY
from inferd.v1 import chat_pb2, completion_pb2, sampling_pb2

Request = chat_pb2.CreateChatCompletionRequest | completion_pb2.CreateCompletionRequest

#: Bytes of the structural tag that the engine compiles for one request.
_MAX_BYTES = 524_288
#: Request fields that give an answer a form, beside `response_format` and `choice`.
_CHAT_FORMS = ("regex", "ebnf")
_TEXT_FORMS = (*_CHAT_FORMS, "json_schema")
_ANY_OBJECT: Structure = {"type": "object"}
_NO_ARGUMENTS: Structure = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class _Form:
    """The form of an answer's content, such as a JSON document of a schema.

    `kind` and `text` are a constraint of the engine, for an answer that is nothing but this form.
    `structure` is the same form as a part of a structural tag. `field` is the path of the request field that
    asks for the form. `gap`: line breaks may stand between reasoning and this form.
    """

    field: str
    kind: Literal["regex", "ebnf", "structural_tag"]
    text: str
    structure: Structure
    gap: bool = False

    def alone(self) -> Constraint:
        return Constraint(self.kind, self.text, self.field)


def text_constraint(request: completion_pb2.CreateCompletionRequest) -> Constraint | None:
    """The constraint of a text completion; None: any text.

    Raises ServiceError INVALID_ARGUMENT that names the field.
    """
    form = _form(request)
    return form.alone() if form else None


def output_constraint(
    request: chat_pb2.CreateChatCompletionRequest,
    *,
    functions: Sequence[Function],
    choice: FunctionChoice,
    format: OutputFormat,
    prompt_end: str,
) -> tuple[Constraint | None, ToolFormat | None]:
    """The constraint of a chat answer (None: any text), and the format of its calls (None: no calls).

    `functions` are the functions that may be called. `format` is how the model writes calls and reasoning;
    a constrained answer may have calls in another format (`JSON_ARRAY`). `prompt_end` is the end of the
    prompt, which may open or close the reasoning. Raises ServiceError INVALID_ARGUMENT that names the field.
    """
    form = _form(request)
    if choice.mode == "none" or not functions:
        return _content(form, format, prompt_end), None
    for function in functions:
        if function.parameters is not None:
            check_schema(function.parameters, f"{function.field}.parameters")
    single = choice.only is not None or (
        request.HasField("parallel_tool_calls") and not request.parallel_tool_calls
    )
    own = format.tools if format.tools and answer_structure.can_constrain(format.tools) else None
    if choice.mode == "required":
        if form:
            raise invalid(
                form.field,
                f"{form.field} may not be used with this tool_choice: the answer is calls, and nothing else",
            )
        tools = own or JSON_ARRAY
        calls = answer_structure.calls_only(tools, _schemas(functions, all_strict=True), single=single)
        return _constraint(calls, format, prompt_end, _parameters_field(functions), gap=True), tools.enforced
    if form:
        if own is None:
            return _content(form, format, prompt_end), None
        either = answer_structure.calls_or_form(own, _schemas(functions), form.structure, single=single)
        return _constraint(either, format, prompt_end, form.field, gap=form.gap), own
    if own is not None and any(function.strict for function in functions):
        text = answer_structure.text_with_calls(own, _schemas(functions), single=single)
        return _constraint(text, format, prompt_end, _parameters_field(functions), gap=True), own
    return None, format.tools


def _content(form: _Form | None, format: OutputFormat, prompt_end: str) -> Constraint | None:
    """The constraint of an answer without calls."""
    if form is None or not answer_structure.has_preamble(format, prompt_end):
        return form.alone() if form else None
    return _constraint(form.structure, format, prompt_end, form.field, gap=form.gap, message=True)


def _constraint(
    form: Structure,
    format: OutputFormat,
    prompt_end: str,
    field: str,
    *,
    gap: bool,
    message: bool = False,
) -> Constraint:
    whole = answer_structure.whole_answer(form, format, prompt_end, gap=gap, message=message)
    text = _structural_tag(whole)
    if len(text) > _MAX_BYTES:
        raise invalid_constraint(field, f"{field}: at most {_MAX_BYTES} bytes of schemas")
    return Constraint("structural_tag", text, field)


def _schemas(functions: Sequence[Function], *, all_strict: bool = False) -> dict[str, Structure]:
    """For each function's name, the schema of the arguments that the engine enforces."""
    schemas = {}
    for function in functions:
        if not (all_strict or function.strict):
            schemas[function.name] = _ANY_OBJECT
        elif function.parameters is None:
            schemas[function.name] = _NO_ARGUMENTS
        else:
            field = f"{function.field}.parameters"
            schemas[function.name] = engine_schema(function.parameters, field, arguments=True)
    return schemas


def _parameters_field(functions: Sequence[Function]) -> str:
    """The field that an error names if the engine refuses the schemas of these functions.

    With several functions it is "tools", because the engine does not say which schema is at fault.
    """
    return f"{functions[0].field}.parameters" if len(functions) == 1 else "tools"


def _form(request: Request) -> _Form | None:
    """The form that the request asks for; None: no form. Refuses a request for two forms."""
    names = _CHAT_FORMS if isinstance(request, chat_pb2.CreateChatCompletionRequest) else _TEXT_FORMS
    asked = [name for name in names if request.HasField(name)]
    if request.choice:
        asked.append("choice")
    if request.HasField("response_format"):
        kind = request.response_format.WhichOneof("format")
        if kind in ("json_object", "json_schema", "structural_tag"):
            asked.insert(0, "response_format")
    if len(asked) > 1:
        raise invalid(asked[1], f"{' and '.join(asked)} may not be used together: an answer has one form")
    if not asked:
        return None
    match asked[0]:
        case "response_format":
            return _response_format(request.response_format)
        case "regex":
            _not_empty(request.regex, "regex")
            check_pattern(request.regex, "regex")
            return _Form("regex", "regex", request.regex, {"type": "regex", "pattern": request.regex})
        case "ebnf":
            _not_empty(request.ebnf, "ebnf")
            check_grammar(request.ebnf, "ebnf")
            return _Form("ebnf", "ebnf", request.ebnf, {"type": "grammar", "grammar": request.ebnf})
        case "choice":
            return _choice(request.choice)
        case field:
            assert isinstance(request, completion_pb2.CreateCompletionRequest)
            return _json(field, parse_schema(request.json_schema, field))


def _response_format(form: sampling_pb2.ResponseFormat) -> _Form:
    field = "response_format"
    match form.WhichOneof("format"):
        case "json_object":
            return _json(field, _ANY_OBJECT)
        case "json_schema":
            field = "response_format.json_schema.schema"
            return _json(field, parse_schema(form.json_schema.schema, field))
    if form.HasField("tag_format"):
        if form.structures or form.triggers:
            raise invalid(field, f"{field} must have a format, or structures with triggers, not both")
        field = f"{field}.format"
        tag = parse_format(form.tag_format, field)
    else:
        tag = triggered_tags(form.structures, form.triggers, field)
    return _Form(field, "structural_tag", _structural_tag(tag), tag)


def _json(field: str, schema: Any) -> _Form:
    part = answer_structure.json_document(engine_schema(schema, field))
    return _Form(field, "structural_tag", _structural_tag(part), part, gap=True)


def _choice(texts: Sequence[str]) -> _Form:
    for index, text in enumerate(texts):
        _not_empty(text, f"choice[{index}]")
    either: Structure = {
        "type": "or",
        "elements": [{"type": "const_string", "value": text} for text in texts],
    }
    return _Form("choice", "structural_tag", _structural_tag(either), either)


def _structural_tag(form: Structure) -> str:
    return orjson.dumps({"type": "structural_tag", "format": form}).decode()


def _not_empty(text: str, field: str) -> None:
    if not text:
        raise invalid_constraint(field, f"{field} must not be empty")

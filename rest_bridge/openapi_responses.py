"""The responses of an OpenAPI operation: the answer, whole and as a stream, and the errors."""

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor
from inferd.rest_bridge.events import comment_fields, error_fields
from inferd.rest_bridge.openapi_schema import ERROR_OBJECT, Json, Schemas
from inferd.rest_bridge.routes import Route, StreamingRule
from inferd.rest_bridge.spelling import message_spelling

# What each error status says. Those of a body are only for operations that take one.
_ERRORS: Mapping[int, str] = {
    400: "The request is at fault: it is malformed, or a member is missing, of a wrong type or out of range."
    " `param` names the member.",
    404: "What the request names does not exist.",
    413: "The body is larger than the server takes.",
    415: "The body is not `application/json` in UTF-8, or is compressed.",
    429: "The server has as much work as it takes. Try again later.",
    503: "What would do the work is out of reach. Try again later.",
    504: "The deadline passed before the work was done.",
}
_OF_A_BODY = (413, 415)
_RETRIED = (429, 503)

_ENVELOPE: Json = {
    "type": "object",
    "description": "Every error, before and within a stream.",
    "properties": {"error": {"$ref": f"#/components/schemas/{ERROR_OBJECT}"}},
    "required": ["error"],
}
_ENVELOPE_REFERENCE: Json = {"$ref": "#/components/schemas/Error"}


class Responses:
    """The responses of a document's operations. `comment` finds the comment of a descriptor."""

    def __init__(self, schemas: Schemas, comment: Callable[[Any], str]) -> None:
        self._schemas = schemas
        self._comment = comment
        schemas.components["Error"] = _ENVELOPE
        #: What operations refer to.
        self.components: Json = {
            "Error": _error("Any other error."),
            **{f"Error{status}": _error(text, status) for status, text in _ERRORS.items()},
        }

    def of(self, route: Route) -> Json:
        """The responses of an operation, by status."""
        responses = self._whole(route)
        if route.streaming is not None:
            success = responses.setdefault("200", {"description": "", "content": {}})
            success["content"]["text/event-stream"] = {"schema": self._event(route.streaming)}
            told = self._stream(route.streaming, f"With {selection(route)}")
            success["description"] = f"{success['description']}\n\n{told}".strip()
        for status in _ERRORS:
            if route.body or status not in _OF_A_BODY:
                responses[str(status)] = {"$ref": f"#/components/responses/Error{status}"}
        responses["default"] = {"$ref": "#/components/responses/Error"}
        return responses

    def _whole(self, route: Route) -> Json:
        """Of the unary answer: that of success and, where they differ, that of work under way."""
        message = route.method.output_type
        headers: Json = {}
        if route.location is not None:
            headers["Location"] = _header("Path of what the response tells of.", {"type": "string"})
        if route.preferred_wait is not None:
            headers["Preference-Applied"] = _header("`wait=N`: what `Prefer` has set.", {"type": "string"})
        responses = {str(route.success_status): self._answer(message, headers)}
        if route.pending is not None:
            comment = self._comment(route.pending.field)
            headers["Retry-After"] = _header(comment, {"type": "integer", "minimum": 0})
            responses[str(route.pending.status)] = self._answer(message, headers)
        return responses

    def _answer(self, message: Descriptor, headers: Json) -> Json:
        return {
            "description": self._comment(message),
            **({"headers": dict(headers)} if headers else {}),
            "content": {"application/json": {"schema": self._schemas.response(message)}},
        }

    def _event(self, streaming: StreamingRule) -> Json:
        message = streaming.method.output_type
        aside = {*comment_fields(message), *error_fields(message)}
        if not aside:
            forms = [self._schemas.response(message)]
        else:
            fields = message_spelling(message).fields
            forms = [self._schemas.alone(field) for field in fields if field not in aside]
        return {"description": "The data of one event.", "oneOf": [*forms, _ENVELOPE_REFERENCE]}

    def _stream(self, streaming: StreamingRule, when: str) -> str:
        message = streaming.method.output_type
        comments = comment_fields(message)
        aside = {*comments, *error_fields(message)}
        data = [field for field in message_spelling(message).fields if field not in aside]
        names = [_type_name(field.field) for field in data] if aside else [message.name]
        lines = ["data: {…}", "", ": keep-alive", "", "data: {…}", ""]
        facts = [
            f"The data of each event is one {' or '.join(f'`{n}`' for n in names)}, as JSON on one line."
        ]
        if streaming.done:
            lines += [f"data: {streaming.done}", ""]
            facts.append(
                f"`data: {streaming.done}` ends a complete stream. One that ends without it was cut short."
            )
        facts += [
            'An error after the stream has begun is the event `data: {"error": …}`, of the schema `Error`,'
            " and the last one. An error before that is an answer of its own, with a status and"
            " `application/json`.",
            "A line that begins with a colon is a comment, which keeps the connection alive while there is"
            " nothing else to send. Clients ignore it.",
        ]
        facts += [
            f"A comment may also be one `{_type_name(field.field)}`, as JSON: {self._comment(field.field)}"
            for field in comments
        ]
        return "\n".join(
            [
                f"{when} the answer is `text/event-stream` (server-sent events):",
                "",
                "```",
                *lines,
                "```",
                "",
                *(f"- {fact}" for fact in facts),
            ]
        )


def selection(route: Route) -> str:
    """What a request says to select the stream, where the route has one."""
    assert route.streaming is not None
    selector = route.streaming.selector
    return f'`"{selector}": true`' if route.body else f"`?{selector}=true`"


def _type_name(field: Any) -> str:
    return field.message_type.name if field.message_type is not None else field.name


def _header(description: str, schema: Json) -> Json:
    return {"description": description, "schema": schema}


def _error(description: str, status: int | None = None) -> Json:
    content: Json = {"application/json": {"schema": _ENVELOPE_REFERENCE}}
    if status not in _RETRIED:
        return {"description": description, "content": content}
    seconds = "Seconds after which the same request may do better."
    headers = {"Retry-After": _header(seconds, {"type": "integer", "minimum": 1})}
    return {"description": description, "headers": headers, "content": content}

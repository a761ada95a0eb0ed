"""The responses of OpenAPI operations: the complete answer, the stream of events, and the errors.

Does not make schemas of messages: `openapi_schema` does.
"""

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor

from inferd.rest_bridge.events import comment_fields, error_fields
from inferd.rest_bridge.json_spelling import message_spelling
from inferd.rest_bridge.openapi_schema import ERROR_OBJECT, Json, Schemas
from inferd.rest_bridge.routes import Route, StreamingRule

#: Descriptions of the error statuses.
_ERRORS: Mapping[int, str] = {
    400: "The request is at fault: it is malformed, or a member is missing, of a wrong type or out of range."
    " `param` names the member.",
    404: "The resource that the request names does not exist.",
    413: "The body exceeds the server's limit.",
    415: "The body is not `application/json` in UTF-8, or is compressed.",
    429: "The service is at its limit of requests. Try again later.",
    503: "The service, or a backend that it needs, is not available. Try again later.",
    504: "The deadline passed before the answer was complete.",
}
#: Errors of operations that have a request body.
_BODY_ERRORS = (413, 415)
#: Errors with the header Retry-After.
_RETRIED = (429, 503)

_ENVELOPE: Json = {
    "type": "object",
    "description": "An error, as a response or as an event of a stream.",
    "properties": {"error": {"$ref": f"#/components/schemas/{ERROR_OBJECT}"}},
    "required": ["error"],
}
_ENVELOPE_REFERENCE: Json = {"$ref": "#/components/schemas/Error"}


class Responses:
    """Makes the responses of operations. `comment` returns the comment of a descriptor."""

    def __init__(self, schemas: Schemas, comment: Callable[[Any], str]) -> None:
        self._schemas = schemas
        self._comment = comment
        schemas.components["Error"] = _ENVELOPE
        #: The error responses, to which the operations refer.
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
            stream = self._stream(route.streaming, f"With {selection(route)}")
            success["description"] = f"{success['description']}\n\n{stream}".strip()
        for status in _ERRORS:
            if route.body or status not in _BODY_ERRORS:
                responses[str(status)] = {"$ref": f"#/components/responses/Error{status}"}
        responses["default"] = {"$ref": "#/components/responses/Error"}
        return responses

    def _whole(self, route: Route) -> Json:
        """The unary method's responses: for success and, with the option `pending`, for unfinished work."""
        message = route.method.output_type
        headers: Json = {}
        if route.location is not None:
            headers["Location"] = _header("Path of the resource in the response.", {"type": "string"})
        if route.preferred_wait is not None:
            headers["Preference-Applied"] = _header(
                "`wait=N`: the seconds that `Prefer` has set.", {"type": "string"}
            )
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
        """The schema of an event's data."""
        message = streaming.method.output_type
        not_data = {*comment_fields(message), *error_fields(message)}
        if not not_data:
            forms = [self._schemas.response(message)]
        else:
            fields = message_spelling(message).fields
            forms = [self._schemas.value(field) for field in fields if field not in not_data]
        return {"description": "The data of one event.", "oneOf": [*forms, _ENVELOPE_REFERENCE]}

    def _stream(self, streaming: StreamingRule, when: str) -> str:
        """The description of the stream, in Markdown. `when` begins it, such as "With `?stream=true`"."""
        message = streaming.method.output_type
        comments = comment_fields(message)
        not_data = {*comments, *error_fields(message)}
        data = [field for field in message_spelling(message).fields if field not in not_data]
        names = [_type_name(field.field) for field in data] if not_data else [message.name]
        lines = ["data: {…}", "", ": keep-alive", "", "data: {…}", ""]
        items = [
            f"The data of each event is one {' or '.join(f'`{n}`' for n in names)}, as JSON on one line."
        ]
        if streaming.done:
            lines += [f"data: {streaming.done}", ""]
            items.append(
                f"`data: {streaming.done}` ends a complete stream. A stream that ends without it is"
                " incomplete."
            )
        items += [
            'An error after the stream has begun is its last event, `data: {"error": …}`, of the schema'
            " `Error`. An error before that is a response with an error status, in `application/json`.",
            "A line that begins with a colon is a comment, which clients ignore. Comments keep the connection"
            " alive while there are no events.",
        ]
        items += [
            f"A comment may also be one `{_type_name(field.field)}`, as JSON. {self._comment(field.field)}"
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
                *(f"- {item}" for item in items),
            ]
        )


def selection(route: Route) -> str:
    """The member or query parameter that selects the stream of a route that has one, in Markdown."""
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
    seconds = "Seconds after which the same request may succeed."
    headers = {"Retry-After": _header(seconds, {"type": "integer", "minimum": 1})}
    return {"description": description, "headers": headers, "content": content}

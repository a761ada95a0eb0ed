"""The responses of OpenAPI operations: the complete answer, the stream of events, and the errors.

Does not make schemas of messages: `openapi_schema` does.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor

from inferd.rest_bridge.events import comment_fields, error_fields
from inferd.rest_bridge.json_spelling import json_fields, message_spelling
from inferd.rest_bridge.openapi_headers import header_reference, metadata_of
from inferd.rest_bridge.openapi_schema import ERROR_RESPONSE, Json, Schemas
from inferd.rest_bridge.routes import Route, StreamingRule

#: Names and descriptions of the error responses, by status.
_ERRORS: Mapping[int, tuple[str, str]] = {
    400: (
        "BadRequest",
        "The request is at fault: it is malformed, or a member is missing, of a wrong type or out of range."
        " `param` names the member.",
    ),
    404: ("NotFound", "The resource that the request names does not exist."),
    409: (
        "Conflict",
        "The state of the resource does not allow the request. If the response has `x-should-retry: false`,"
        " the same request would get the same answer.",
    ),
    413: ("BodyTooLarge", "The body exceeds the server's limit."),
    415: ("UnsupportedMediaType", "The body is not `application/json` in UTF-8, or is compressed."),
    429: ("TooManyRequests", "The service is at its limit of requests. Try again later."),
    503: ("Unavailable", "The service, or a backend that it needs, is not available. Try again later."),
    504: ("DeadlineExceeded", "The deadline passed before the answer was complete."),
}
#: Errors of operations that have a request body.
_BODY_ERRORS = (413, 415)
#: Errors of operations whose comments in the protos name the status, such as "ABORTED (409, ATTEMPT_LOST)".
_TOLD_ERRORS = (409,)
_TOLD = re.compile(r"\((\d{3}),")
#: Errors with the header Retry-After.
_RETRIED = (429, 503)

_ERROR_REFERENCE: Json = {"$ref": f"#/components/schemas/{ERROR_RESPONSE}"}


class Responses:
    """Makes the responses of operations. `comment` returns the comment of a descriptor."""

    def __init__(self, schemas: Schemas, comment: Callable[[Any], str]) -> None:
        self._schemas = schemas
        self._comment = comment
        #: The error responses, to which the operations refer.
        self.components: Json = {
            "OtherError": _error("Any other error."),
            **{name: _error(text, status) for status, (name, text) in _ERRORS.items()},
        }

    def of(self, route: Route) -> Json:
        """The responses of an operation, by status."""
        responses = self._whole(route) if route.stream is None else self._streamed(route, route.stream)
        if route.streaming is not None:
            success = responses.setdefault("200", {"description": "", "content": {}})
            success["content"]["text/event-stream"] = {"schema": self._events(route.streaming)}
            stream = self._stream(route.streaming, f"With {selection(route)}")
            success["description"] = f"{success['description']}\n\n{stream}".strip()
        comments = "\n".join(self._comments(route))
        told = {int(status) for status in _TOLD.findall(comments)}
        for status, (name, _) in _ERRORS.items():
            if status in _BODY_ERRORS and not route.body:
                continue
            if status in _TOLD_ERRORS and status not in told:
                continue
            responses[str(status)] = {"$ref": f"#/components/responses/{name}"}
        responses["default"] = {"$ref": "#/components/responses/OtherError"}
        return responses

    def _comments(self, route: Route) -> Iterator[str]:
        """The comments of a route's methods, and of the members of their request."""
        yield self._comment(route.method)
        if route.streaming is not None:
            yield self._comment(route.streaming.method)
        for field in json_fields(message_spelling(route.method.input_type)):
            yield self._comment(field.field)

    def _headers(self, route: Route) -> Json:
        """The headers of successful responses: the request's id, and initial metadata of the RPC."""
        return {
            name: header_reference(name) for name in ("x-request-id", *metadata_of(self._comments(route)))
        }

    def _streamed(self, route: Route, rule: StreamingRule) -> Json:
        """The response of a method that streams."""
        content = {"text/event-stream": {"schema": self._events(rule)}}
        description = self._stream(rule, "If the request is accepted,")
        return {"200": {"description": description, "headers": self._headers(route), "content": content}}

    def _whole(self, route: Route) -> Json:
        """The unary method's responses: for success and, with the option `pending`, for unfinished work."""
        message = route.method.output_type
        headers = self._headers(route)
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

    def _events(self, streaming: StreamingRule) -> Json:
        """The schema of a stream of events, with a component for the data of one event.

        The schema is a string, because that is the type of a response that is not JSON, for generators and in
        OpenAPI 3.1. OpenAPI 3.2 describes a stream by `itemSchema`, but openapi-generator 7.25 and
        openapi-python-client 0.29 refuse documents of that version.
        """
        message = streaming.method.output_type
        not_data = {*comment_fields(message), *error_fields(message)}
        name = f"{message.name.removesuffix('Event')}Event"
        if not not_data:
            forms = [self._schemas.response(message)]
            # The message has a component of its own.
            name = f"{name}Data" if name == message.name else name
        else:
            fields = message_spelling(message).fields
            forms = [self._schemas.value(field) for field in fields if field not in not_data]
        event = {"description": "The data of one event.", "anyOf": [*forms, _ERROR_REFERENCE]}
        self._schemas.components[name] = event
        return {
            "type": "string",
            "description": f"Events, each with one `{name}` as its data.",
            "contentMediaType": "text/event-stream",
            "contentSchema": {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}},
        }

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
            " `ErrorResponse`. An error before that is a response with an error status, in"
            " `application/json`.",
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
    names = ["x-request-id"]
    if status is None or status in _RETRIED:
        names.append("retry-after")
    if status is None or status in _TOLD_ERRORS:
        names.append("x-should-retry")
    return {
        "description": description,
        "headers": {name: header_reference(name) for name in names},
        "content": {"application/json": {"schema": _ERROR_REFERENCE}},
    }

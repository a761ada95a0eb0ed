"""The OpenAPI document, made from the services' descriptors: their HTTP rules, comments and options.

Names no service, method or field: what an API is called and what it means stands in the protos alone.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from inferd.options.v1 import options_pb2

from rest_bridge import comments as proto_comments
from rest_bridge.path_template import Wildcard
from rest_bridge.routes import Route, StreamingRule, compile_routes
from rest_bridge.schema import Json, Schemas
from rest_bridge.spelling import message_spelling

# protobuf's stubs and its generated code disagree on the type of an extension.
_EXAMPLE: Any = options_pb2.example

_DESCRIPTION = """\
A typed gRPC service in front of SGLang runtimes, and the REST paths of OpenAI's API over it. This document \
is made from the protos: every path here, but /health, is an RPC there.

Members of a request that are not described here are ignored. A null in a request is as good as an absent \
member. The header `x-request-timeout` sets a deadline, in seconds; `x-request-id` names the request, and \
the response repeats it or brings one."""

_RETRY_AFTER: Json = {
    "Retry-After": {
        "description": "Seconds after which the same request may do better.",
        "schema": {"type": "integer", "minimum": 1},
    }
}

# What each error status says. Those of a body are only for operations that take one.
_ERRORS: Mapping[int, str] = {
    400: "The request is at fault: it is malformed, or a member is missing, of a wrong type or out of range."
    " `param` names the member.",
    404: "What the request names does not exist.",
    413: "The body is larger than the server takes.",
    415: "The body is not `application/json` in UTF-8, or is compressed.",
    429: "The server has as much work as it takes. Try again later.",
    501: "Not served.",
    503: "What would do the work is out of reach. Try again later.",
    504: "The deadline passed before the work was done.",
}
_OF_A_BODY = (413, 415)
_RETRIED = (429, 503)
_NOT_SERVED = 501

_ERROR_SCHEMA: Json = {
    "type": "object",
    "description": "Every error, before and within a stream.",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string", "description": "What is wrong, for people."},
                "type": {"type": "string", "description": "The kind of error, such as `server_error`."},
                "param": {"type": ["string", "null"], "description": "Path of the member at fault, if any."},
                "code": {"type": "string", "description": "The reason, for programs."},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
_ERROR_REFERENCE: Json = {"$ref": "#/components/schemas/Error"}


def _health(description: str, status: str) -> Json:
    properties: Json = {"status": {"type": "string", "const": status}}
    schema: Json = {"type": "object", "properties": properties, "required": ["status"]}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


# The one path that is no RPC of these services (`app` serves it).
_HEALTH: Json = {
    "operationId": "health",
    "tags": ["health"],
    "summary": "Tells whether the server is ready",
    "description": "The same answer as grpc.health.v1 gives for the server as a whole.",
    "responses": {
        "200": _health("Ready: requests are answered.", "serving"),
        "503": _health("Not ready: starting, stopping, or without a runtime.", "not_serving"),
    },
}


def document(services: Sequence[ServiceDescriptor]) -> Json:
    """The OpenAPI 3.1.0 document of the HTTP rules of some services, ready to be written as JSON.

    Raises ValueError where the protos cannot be described, naming what is at fault: a rule that cannot
    work, an example that is no JSON object, two operations or schemas of the same name.
    """
    return _Document(proto_comments.load()).build(services)


class _Document:
    def __init__(self, comments: Mapping[str, str]) -> None:
        self._comments = comments
        self._schemas = Schemas(comments)
        self._schemas.components["Error"] = _ERROR_SCHEMA

    def build(self, services: Sequence[ServiceDescriptor]) -> Json:
        routes = compile_routes(services)
        # Bodies first, so that a message that responses have too keeps its plain name in requests.
        for route in routes:
            if route.body:
                self._body(route)
        first: dict[str, Route] = {}
        paths: dict[str, Json] = {}
        names: set[str] = set()
        for route in routes:
            main = first.setdefault(route.method.full_name, route)
            operation = self._operation(route, main)
            operations, verb = paths.setdefault(_path(route), {}), route.verb.lower()
            if verb in operations or operation["operationId"] in names:
                raise ValueError(f"{route.method.full_name}: {verb} {_path(route)} is described already")
            names.add(operation["operationId"])
            operations[verb] = operation
        paths.setdefault("/health", {})["get"] = _HEALTH
        tags = [{"name": service.name, "description": self._comment(service)} for service in services]
        return {
            "openapi": "3.1.0",
            "info": {"title": "inferd", "version": metadata.version("inferd"), "description": _DESCRIPTION},
            "servers": [{"url": "/"}],
            "tags": [*tags, {"name": "health", "description": "Whether the server is ready."}],
            "paths": paths,
            "components": {
                "schemas": dict(sorted(self._schemas.components.items())),
                "responses": {
                    "Error": _error("Any other error."),
                    **{f"Error{status}": _error(text, status) for status, text in _ERRORS.items()},
                },
            },
        }

    def _comment(self, descriptor: Any) -> str:
        return self._comments.get(descriptor.full_name, descriptor.name)

    def _operation(self, route: Route, main: Route) -> Json:
        """The operation of one binding; `main` is the first one of the same method."""
        method = route.method
        service = method.containing_service
        name = f"{service.name}_{method.name}"
        comment = self._comment(method)
        texts = [comment]
        if route.streaming is not None:
            sibling = self._comment(route.streaming.method)
            texts.append(f'With `"{route.streaming.selector}": true`: {sibling}')
        if route is not main:
            texts.insert(0, f"The same as `{main.verb} {_path(main)}`.")
            name += f"_{route.verb.lower()}_{re.sub(r'[^A-Za-z0-9]+', '_', _path(route)).strip('_')}"
        example = _example(method)
        parameters = [*self._path_parameters(route, example), *self._query_parameters(route, example)]
        return {
            "operationId": name,
            "tags": [service.name],
            "summary": re.split(r"(?<=\.)\s", comment)[0].removesuffix("."),
            "description": "\n\n".join(texts),
            **({"parameters": parameters} if parameters else {}),
            **({"requestBody": self._request_body(route, example)} if route.body else {}),
            "responses": self._responses(route),
        }

    def _path_parameters(self, route: Route, example: Json) -> Iterator[Json]:
        for variable, path in zip(route.template.variables, route.path_fields, strict=True):
            comment = self._comment(path.field)
            captured = route.template.segments[variable.start : variable.stop]
            if Wildcard.MANY in captured or len(captured) > 1:
                comment += " In the path it may hold slashes, as they are."
            yield {
                "name": path.text,
                "in": "path",
                "required": True,
                "description": comment,
                "schema": self._schemas.parameter(path.field),
                **({"example": example[path.text]} if path.text in example else {}),
            }

    def _query_parameters(self, route: Route, example: Json) -> Iterator[Json]:
        """The request's own scalars that stand neither in the path nor in the body."""
        if route.body == "*":
            return
        for field in message_spelling(route.method.input_type).fields:
            if field.name in (*_bound(route), route.body) or field.field.message_type is not None:
                continue
            yield {
                "name": field.member,
                "in": "query",
                "required": field.required,
                "description": self._comment(field.field),
                "schema": self._schemas.parameter(field.field),
                **({"example": example[field.member]} if field.member in example else {}),
            }

    def _body(self, route: Route) -> Json:
        """Schema of the request body."""
        message, bound = route.method.input_type, _bound(route)
        if route.body != "*":
            (field,) = (field for field in message_spelling(message).fields if field.name == route.body)
            message, bound = field.nested, frozenset()
        selector = route.streaming.selector if route.streaming is not None else ""
        return self._schemas.body(message, bound, selector, "Whether the answer is a stream of events.")

    def _request_body(self, route: Route, example: Json) -> Json:
        # What stands in the path need not be said twice.
        example = {member: value for member, value in example.items() if member not in _bound(route)}
        media: Json = {"schema": self._body(route)}
        if example and route.streaming is not None:
            streamed = {**example, route.streaming.selector: True}
            media["examples"] = {
                "whole": {"summary": "The whole answer at once", "value": example},
                "stream": {"summary": "The answer as it is made", "value": streamed},
            }
        elif example:
            media["example"] = example
        description = self._comment(route.method.input_type)
        return {"description": description, "required": True, "content": {"application/json": media}}

    def _responses(self, route: Route) -> Json:
        description = self._comment(route.method.output_type)
        whole = self._schemas.response(route.method.output_type)
        content: Json = {"application/json": {"schema": whole}}
        responses: Json = {str(route.success_status): {"description": description, "content": content}}
        if route.streaming is not None:
            chunk = self._schemas.response(route.streaming.method.output_type)
            schema = {"description": "The data of one event.", "oneOf": [chunk, _ERROR_REFERENCE]}
            success = responses.setdefault("200", {"description": "", "content": {}})
            success["content"]["text/event-stream"] = {"schema": schema}
            told = _stream_description(route.streaming)
            success["description"] = f"{success['description']}\n\n{told}".strip()
        served = "UNIMPLEMENTED" not in self._comment(route.method.containing_service)
        for status in _ERRORS:
            if (route.body or status not in _OF_A_BODY) and not (served and status == _NOT_SERVED):
                responses[str(status)] = {"$ref": f"#/components/responses/Error{status}"}
        responses["default"] = {"$ref": "#/components/responses/Error"}
        return responses


def _path(route: Route) -> str:
    """The path as OpenAPI writes it: a variable says nothing of what it matches."""
    return re.sub(r"\{([^=}]+)=[^}]*\}", r"{\1}", route.template.text)


def _bound(route: Route) -> frozenset[str]:
    """The request's own fields that stand in the path."""
    return frozenset(path.names[0] for path in route.path_fields if len(path.names) == 1)


def _example(method: MethodDescriptor) -> Json:
    text = method.GetOptions().Extensions[_EXAMPLE]
    try:
        example = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"{method.full_name}: the example is no JSON: {error}") from None
    if not isinstance(example, dict):
        raise ValueError(f"{method.full_name}: the example is no JSON object")
    return example


def _stream_description(streaming: StreamingRule) -> str:
    chunk = streaming.method.output_type.name
    lines = ["data: {…}", "", ": keep-alive", "", "data: {…}", ""]
    facts = [f"The data of each event is one `{chunk}`, as JSON on one line."]
    if streaming.done:
        lines += [f"data: {streaming.done}", ""]
        facts.append(
            f"`data: {streaming.done}` ends a complete stream. One that ends without it was cut short."
        )
    facts += [
        'An error after the stream has begun is the event `data: {"error": …}`, of the schema `Error`, and'
        " the last one. An error before that is an answer of its own, with a status and `application/json`.",
        "A line that begins with a colon is a comment, which keeps the connection alive while there is"
        " nothing else to send. Clients ignore it.",
    ]
    return "\n".join(
        [
            f'With `"{streaming.selector}": true` the answer is `text/event-stream` (server-sent events):',
            "",
            "```",
            *lines,
            "```",
            "",
            *(f"- {fact}" for fact in facts),
        ]
    )


def _error(description: str, status: int | None = None) -> Json:
    content: Json = {"application/json": {"schema": _ERROR_REFERENCE}}
    headers = {"headers": _RETRY_AFTER} if status in _RETRIED else {}
    return {"description": description, **headers, "content": content}

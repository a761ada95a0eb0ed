"""The OpenAPI document of services, made from their descriptors: HTTP rules, comments and options.

Does not know any service, method or field by name: the protos alone name and describe the API.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from inferd.options.v1 import options_pb2
from inferd.rest_bridge import proto_comments
from inferd.rest_bridge.json_spelling import FieldSpelling, json_fields, message_spelling
from inferd.rest_bridge.openapi_headers import (
    ALL_PARAMETERS,
    HEADERS,
    IDEMPOTENCY_KEY,
    PARAMETERS,
    parameter_reference,
)
from inferd.rest_bridge.openapi_responses import Responses, selection
from inferd.rest_bridge.openapi_schema import ERROR_RESPONSE, Json, Schemas
from inferd.rest_bridge.path_template import Wildcard
from inferd.rest_bridge.routes import Route, compile_routes

# protobuf's stubs and its generated code disagree on the type of an extension.
_EXAMPLE: Any = options_pb2.example

_SELECTOR_DESCRIPTION = "If true, the answer is a stream of server-sent events. Default: false."


def _health(description: str) -> Json:
    schema = {"$ref": "#/components/schemas/Health"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


# The tag of operations that have a path beside their method's first one.
_ALIASES = "Aliases"

_DESCRIPTION = """\
A gRPC service in front of SGLang runtimes, with the REST paths of OpenAI's API. This document is made from \
the protos: every path except /health is an RPC of the protos.

Members of a request that are not described here are ignored. A null in a request counts as an absent \
member.

## Errors and retries

An error is an `ErrorResponse` with a status of 400 or more.

- 429 and 503: repeat the request after the seconds of `retry-after`; if the header is absent, after a \
growing delay.
- 408, 500, 502 and 504: a repeated request may succeed, but the work of the first request may have been \
done. Operations with the parameter `idempotency-key` can be repeated safely if the key is the same.
- 409: repeat the request unless the response has `x-should-retry: false`.
- Any other 4xx: the same request gets the same answer again."""


# The only path that is not an RPC. `app` serves it.
_HEALTH: Json = {
    "operationId": "health",
    "tags": ["health"],
    "summary": "Tells whether the server is ready",
    "description": "The same answer as grpc.health.v1 gives for the server as a whole.",
    "responses": {
        "200": _health("The server is ready and answers requests."),
        "4XX": {
            "description": "The HTTP server refuses the request, because its head is malformed, too large or"
            " incomplete.",
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{ERROR_RESPONSE}"}}},
        },
        "503": _health("The server is starting or stopping, or has no runtime."),
    },
}
_HEALTH_SCHEMA: Json = {
    "type": "object",
    "description": "Whether the server is ready.",
    "properties": {"status": {"type": "string", "enum": ["serving", "not_serving"]}},
    "required": ["status"],
}


def document(services: Sequence[ServiceDescriptor]) -> Json:
    """The OpenAPI 3.1.0 document of the HTTP rules of services, as a value that JSON can represent.

    Raises ValueError, naming the place, for a rule that cannot work, an example that is not a JSON object, or
    two operations or schemas of the same name.
    """
    return _Document(proto_comments.load()).build(services)


class _Document:
    def __init__(self, comments: Mapping[str, str]) -> None:
        self._comments = comments
        self._schemas = Schemas(comments)
        self._schemas.components["Health"] = _HEALTH_SCHEMA
        self._responses = Responses(self._schemas, self._comment)
        #: The routes of each method, by its full name. The first one has the method's operation.
        self._routes: dict[str, list[Route]] = {}

    def build(self, services: Sequence[ServiceDescriptor]) -> Json:
        routes = compile_routes(services)
        # Request bodies come first, so that a message of requests and responses has its plain name in
        # requests.
        for route in routes:
            if route.body:
                self._body(route)
            self._routes.setdefault(route.method.full_name, []).append(route)
        paths: dict[str, Json] = {}
        names: set[str] = set()
        for route in routes:
            operation = self._operation(route)
            operations, verb = paths.setdefault(_path(route), {}), route.verb.lower()
            if verb in operations or operation["operationId"] in names:
                raise ValueError(f"{route.method.full_name}: {verb} {_path(route)} is described already")
            names.add(operation["operationId"])
            operations[verb] = operation
        paths.setdefault("/health", {})["get"] = _HEALTH
        tags = [{"name": service.name, "description": self._comment(service)} for service in services]
        tags.append({"name": "health", "description": "Whether the server is ready."})
        if len(routes) > len(self._routes):
            text = "Further paths of the operations above, for clients that expect them."
            tags.append({"name": _ALIASES, "description": text})
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "inferd",
                "version": metadata.version("inferd"),
                "description": _DESCRIPTION,
                "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            # No operation has a security scheme yet. A scheme in components.securitySchemes belongs here too.
            "security": [],
            "tags": tags,
            "paths": paths,
            "components": {
                "schemas": dict(sorted(self._schemas.components.items())),
                "responses": self._responses.components,
                "parameters": dict(ALL_PARAMETERS),
                "headers": dict(HEADERS),
            },
        }

    def _comment(self, descriptor: Any) -> str:
        """The comment of a descriptor, else its name."""
        return self._comments.get(descriptor.full_name, descriptor.name)

    def _operation(self, route: Route) -> Json:
        method = route.method
        service = method.containing_service
        main = self._routes[method.full_name][0]
        name = f"{service.name}_{method.name}"
        description = self._description(route)
        if route is not main:
            name += f"_{route.verb.lower()}_{re.sub(r'[^A-Za-z0-9]+', '_', _path(route)).strip('_')}"
            description = f"The same as `{main.verb} {_path(main)}`."
        example = _example(route.stream.unary if route.stream is not None else method)
        parameters = [
            *self._path_parameters(route, example),
            *self._query_parameters(route, example),
            *self._header_parameters(route),
        ]
        return {
            "operationId": name,
            "tags": [service.name if route is main else _ALIASES],
            "summary": re.split(r"(?<=\.)\s", self._comment(method))[0].removesuffix("."),
            "description": description,
            **({"parameters": parameters} if parameters else {}),
            **({"requestBody": self._request_body(route, example)} if route.body else {}),
            "responses": self._responses.of(route),
        }

    def _description(self, route: Route) -> str:
        """The description of a method's first route."""
        method, streaming = route.method, route.streaming
        texts = [self._comment(method)]
        if streaming is not None:
            texts.append(f"With {selection(route)}: {self._comment(streaming.method)}")
            texts += [
                f"`{always.verb} {_path(always)}` always streams."
                for always in self._routes.get(streaming.method.full_name, ())
            ]
        if aliases := self._routes[method.full_name][1:]:
            texts.append(f"Also served at {', '.join(f'`{_path(alias)}`' for alias in aliases)}.")
        if route.stream is not None and route.body:
            texts.append(f"The member `{route.stream.selector}` has no effect here.")
        if method.GetOptions().idempotency_level:
            texts.append("A request can be repeated safely.")
        return "\n\n".join(texts)

    def _path_parameters(self, route: Route, example: Json) -> Iterator[Json]:
        for variable, path in zip(route.template.variables, route.path_fields, strict=True):
            comment = self._comment(path.field)
            captured = route.template.segments[variable.start : variable.stop]
            if Wildcard.MANY in captured or len(captured) > 1:
                comment += " In the path, slashes need no encoding."
            yield {
                "name": path.text,
                "in": "path",
                "required": True,
                "description": comment,
                "schema": self._schemas.parameter(path.field),
                **({"example": example[path.text]} if path.text in example else {}),
            }

    def _query_parameters(self, route: Route, example: Json) -> Iterator[Json]:
        """The fields that neither the path nor the body sets; and the selector, if there is no body."""
        if route.body == "*":
            return
        for field in json_fields(message_spelling(route.method.input_type)):
            if field.name in (*_bound(route), route.body) or _is_document(field):
                continue
            yield {
                "name": field.member,
                "in": "query",
                "required": field.required,
                "description": self._comment(field.field),
                "schema": self._schemas.parameter(field.field),
                **({"example": example[field.member]} if field.member in example else {}),
            }
        if route.streaming is not None and not route.body:
            yield {
                "name": route.streaming.selector,
                "in": "query",
                "required": False,
                "description": _SELECTOR_DESCRIPTION,
                "schema": {"type": "boolean"},
            }

    def _header_parameters(self, route: Route) -> Iterator[Json]:
        yield from map(parameter_reference, PARAMETERS)
        if "request_id" in route.method.input_type.fields_by_name:
            yield parameter_reference(IDEMPOTENCY_KEY)
        if route.preferred_wait is not None:
            comment = self._comment(route.preferred_wait.field)
            yield {
                "name": "Prefer",
                "in": "header",
                "required": False,
                "description": f"`wait=N` (RFC 7240), used if the request does not set the field. {comment}",
                "schema": {"type": "string"},
                "example": "wait=10",
            }

    def _body(self, route: Route) -> Json:
        """The schema of the request body."""
        message, bound = route.method.input_type, _bound(route)
        if route.body != "*":
            (field,) = (field for field in message_spelling(message).fields if field.name == route.body)
            message, bound = field.nested, frozenset()
        # A stream of its own path takes the same body, so that clients have one type for both.
        rule = route.streaming or route.stream
        selector = rule.selector if rule is not None else ""
        return self._schemas.body(message, bound, selector, _SELECTOR_DESCRIPTION)

    def _request_body(self, route: Route, example: Json) -> Json:
        # The path sets these members already.
        example = {member: value for member, value in example.items() if member not in _bound(route)}
        media: Json = {"schema": self._body(route)}
        if example and route.streaming is not None:
            streamed = {**example, route.streaming.selector: True}
            media["examples"] = {
                "whole": {"summary": "The complete answer at once", "value": example},
                "stream": {"summary": "The answer as it is generated", "value": streamed},
            }
        elif example:
            media["example"] = example
        description = self._comment(route.method.input_type)
        content = {"application/json": media}
        return {"description": description, "required": route.needs_body, "content": content}


def _path(route: Route) -> str:
    """The path as OpenAPI writes it: variables have no patterns."""
    return re.sub(r"\{([^=}]+)=[^}]*\}", r"{\1}", route.template.text)


def _bound(route: Route) -> frozenset[str]:
    """The fields of the request, or of its inline message, that the path sets."""
    return frozenset(path.field.name for path in route.path_fields if "." not in path.text)


def _is_document(field: FieldSpelling) -> bool:
    """Whether the field is a message that a query parameter cannot set."""
    return field.field.message_type is not None and not message_spelling(field.nested).is_json_string


def _example(method: MethodDescriptor) -> Json:
    """The example of a request body, or an empty object."""
    text = method.GetOptions().Extensions[_EXAMPLE]
    try:
        example = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"{method.full_name}: the example is no JSON: {error}") from None
    if not isinstance(example, dict):
        raise ValueError(f"{method.full_name}: the example is no JSON object")
    return example

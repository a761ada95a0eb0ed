"""Reads the HTTP rules of the protos (google.api.http and inferd's options) and checks them, once, at start.

A rule that cannot work raises RouteError with the method's name and, for a template, the column: no request
meets it. Does not match requests: `router` finds the route of a request.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from inferd.options.v1 import options_pb2
from inferd.rest_bridge import path_template
from inferd.rest_bridge.dialects import Dialect, dialect_of
from inferd.rest_bridge.field_path import FieldPath, FieldPathError, resolve
from inferd.rest_bridge.json_spelling import json_fields, message_spelling
from inferd.rest_bridge.long_running import (
    Location,
    LongRunningError,
    Pending,
    PreferredWait,
    location_of,
    pending_of,
    preferred_wait_of,
)
from inferd.rest_bridge.path_template import PathTemplate, TemplateError

#: Options that only a unary method with an HTTP rule may have.
_UNARY_OPTIONS: tuple[Any, ...] = (
    options_pb2.streaming,
    options_pb2.pending,
    options_pb2.location,
    options_pb2.prefer_wait,
)


class RouteError(ValueError):
    """The HTTP rule of a method, or an option of the method, cannot work."""


@dataclass(frozen=True)
class StreamingRule:
    """The server-streaming method that shares the HTTP paths of a unary one (`unary`).

    `selector` is the boolean member of the JSON body that selects `method` or, if the rule has no body, the
    query parameter. `done` is the data of the event that ends a complete stream; empty if there is no such
    event.
    """

    method: MethodDescriptor
    unary: MethodDescriptor
    selector: str
    done: str


@dataclass(frozen=True, eq=False)
class Route:
    """One HTTP binding of a method.

    `verb` is the HTTP method. `path_fields` are the fields that the template's variables set, in order.
    `body` is "*", a field's name, or empty, as in google.api.HttpRule. `needs_body` tells that the body must
    not be empty, because it alone can set a required field. `success_status`, `pending`, `location` and
    `preferred_wait` are for the unary response; the status of a stream is 200. `stream` is the rule of a
    method that streams; None for a unary method. `dialect` is the method's, and also that of the method that
    streams on the same paths.
    """

    verb: str
    template: PathTemplate
    method: MethodDescriptor
    streaming: StreamingRule | None
    body: str
    needs_body: bool
    path_fields: tuple[FieldPath, ...]
    success_status: int
    pending: Pending | None
    location: Location | None
    preferred_wait: PreferredWait | None
    stream: StreamingRule | None
    dialect: Dialect


def compile_routes(services: Iterable[ServiceDescriptor]) -> tuple[Route, ...]:
    """The routes of all methods that have HTTP rules, in the order of the protos. Raises RouteError."""
    return tuple(route for service in services for method in service.methods for route in _routes_of(method))


def _routes_of(method: MethodDescriptor) -> Iterator[Route]:
    options: Any = method.GetOptions()
    given = [option.name for option in _UNARY_OPTIONS if options.HasExtension(option)]
    if given and method.server_streaming:
        raise RouteError(f"{method.full_name}: a {given[0]} option on a method that streams")
    if not options.HasExtension(annotations_pb2.http):
        if given:
            raise RouteError(f"{method.full_name}: a {given[0]} option without an HTTP rule")
        return
    streaming = _streaming(method) if options.HasExtension(options_pb2.streaming) else None
    if method.client_streaming:
        raise RouteError(f"{method.full_name}: client streaming has no HTTP form")
    rule = options.Extensions[annotations_pb2.http]
    yield _route(method, rule, streaming)
    for binding in rule.additional_bindings:
        if binding.additional_bindings:
            raise RouteError(f"{method.full_name}: additional_bindings cannot be nested")
        yield _route(method, binding, streaming)


def _route(method: MethodDescriptor, rule: http_pb2.HttpRule, streaming: StreamingRule | None) -> Route:
    verb, text = _pattern(method, rule)
    where = f"{method.full_name}: {verb} {text!r}"
    try:
        template = path_template.parse(text)
    except TemplateError as error:
        raise RouteError(f"{where}: {error}") from None
    if rule.response_body:
        raise RouteError(f"{where}: response_body is not supported")
    _check_body(where, method, rule.body)
    dialect = dialect_of(method)
    path_fields = _path_fields(where, method, template, dialect)
    try:
        pending, location = pending_of(method), location_of(method)
        preferred_wait = preferred_wait_of(method)
    except LongRunningError as error:
        raise RouteError(f"{method.full_name}: {error}") from None
    return Route(
        verb=verb,
        template=template,
        method=method,
        streaming=streaming,
        body=rule.body,
        needs_body=_needs_body(method, rule.body, path_fields),
        path_fields=path_fields,
        success_status=_success_status(method),
        pending=pending,
        location=location,
        preferred_wait=preferred_wait,
        stream=_own_rule(method) if method.server_streaming else None,
        dialect=dialect,
    )


def _pattern(method: MethodDescriptor, rule: http_pb2.HttpRule) -> tuple[str, str]:
    pattern = rule.WhichOneof("pattern")
    if pattern is None:
        raise RouteError(f"{method.full_name}: the HTTP rule has no path")
    if pattern != "custom":
        return pattern.upper(), getattr(rule, pattern)
    if not rule.custom.kind.isalpha():
        raise RouteError(f"{method.full_name}: no HTTP method: {rule.custom.kind!r}")
    return rule.custom.kind.upper(), rule.custom.path


def _check_body(where: str, method: MethodDescriptor, body: str) -> None:
    if body in ("", "*"):
        return
    field = method.input_type.fields_by_name.get(body)
    if field is None:
        raise RouteError(f"{where}: the body names no field of {method.input_type.full_name}: {body!r}")
    if field.message_type is None or field.is_repeated:
        raise RouteError(f"{where}: the body {body!r} is no single message")


def _path_fields(
    where: str, method: MethodDescriptor, template: PathTemplate, dialect: Dialect
) -> tuple[FieldPath, ...]:
    fields = []
    for variable in template.variables:
        try:
            field = resolve(method.input_type, variable.field_path, dialect.name)
        except FieldPathError as error:
            raise RouteError(f"{where}: column {variable.column}: {error}") from None
        if field.field.is_repeated:
            raise RouteError(f"{where}: column {variable.column}: {field.text} is repeated")
        fields.append(field)
    return tuple(fields)


def _needs_body(method: MethodDescriptor, body: str, path_fields: Iterable[FieldPath]) -> bool:
    message = method.input_type
    if body not in ("", "*"):
        field_type = message.fields_by_name[body].message_type
        assert field_type is not None
        message = field_type
    bound = {path.field for path in path_fields}
    return bool(body) and any(
        field.required and field.field not in bound for field in json_fields(message_spelling(message))
    )


def _success_status(method: MethodDescriptor) -> int:
    options: Any = method.GetOptions()
    if not options.HasExtension(options_pb2.success_status):
        return 200
    status: int = options.Extensions[options_pb2.success_status]
    if status not in (200, 201, 202, 203):
        raise RouteError(f"{method.full_name}: success_status {status} does not go with a body")
    return status


def _own_rule(method: MethodDescriptor) -> StreamingRule:
    """The rule of a method that streams on paths of its own: the rule of a unary sibling that names it."""
    for sibling in method.containing_service.methods:
        options: Any = sibling.GetOptions()
        if options.Extensions[options_pb2.streaming].rpc == method.name:
            return _streaming(sibling)
    return StreamingRule(method, method, "", "")


def _streaming(method: MethodDescriptor) -> StreamingRule:
    options: Any = method.GetOptions()
    option = options.Extensions[options_pb2.streaming]
    sibling = method.containing_service.methods_by_name.get(option.rpc)
    if sibling is None:
        raise RouteError(f"{method.full_name}: the streaming option names no sibling: {option.rpc!r}")
    if not sibling.server_streaming or sibling.client_streaming:
        raise RouteError(f"{method.full_name}: {option.rpc} is not server-streaming")
    if sibling.input_type.full_name != method.input_type.full_name:
        raise RouteError(f"{method.full_name}: {option.rpc} takes another request")
    members = {name for field in json_fields(message_spelling(method.input_type)) for name in field.accepted}
    if not option.selector or option.selector in members:
        raise RouteError(f"{method.full_name}: the selector is a field, or empty: {option.selector!r}")
    if not option.done.isprintable():
        raise RouteError(f"{method.full_name}: the data of the last event is not one line")
    return StreamingRule(sibling, method, option.selector, option.done)

"""The dialects of the JSON API, read from inferd.options.v1.Dialect at start: their names, and their errors.

The default dialect is OpenAI's. Spells no messages, and does not read google.rpc.Status: the codec and
`errors` do.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import orjson
from google.protobuf.descriptor import MethodDescriptor

from inferd.options.v1 import options_pb2
from inferd.rest_bridge import sse
from inferd.rest_bridge.json_spelling import SpellingError

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_PART = re.compile(r"\{(\w+)\}")
#: Parts of an error that a form can use. `error` is OpenAI's error object.
_PARTS = frozenset({"error", "message", "type", "param", "code", "request_id"})


@dataclass(frozen=True)
class ErrorKind:
    """A kind of errors. `status` is 0, and `type` empty, if errors of this kind have the usual one."""

    status: int
    type: str


@dataclass(frozen=True)
class ErrorForm:
    """The form of errors: inferd.options.v1.ErrorForm.

    In the JSON documents `envelope` and `event_envelope`, strings such as "{type}" stand for the parts of an
    error. `event` is the name of the event of an error, or empty.
    """

    envelope: Any
    event_envelope: Any
    event: bytes
    by_reason: Mapping[str, ErrorKind]
    by_code: Mapping[grpc.StatusCode, ErrorKind]

    def kind_of(self, reason: str, code: grpc.StatusCode | None) -> ErrorKind:
        """The kind of an error by its reason (inferd.v1.ErrorReason), else by its gRPC code."""
        kind = self.by_reason.get(reason)
        if kind is None and code is not None:
            kind = self.by_code.get(code)
        return kind or _USUAL

    def body(self, parts: Mapping[str, Any]) -> bytes:
        """The body of an error response."""
        return orjson.dumps(_filled(self.envelope, parts))

    def last_event(self, parts: Mapping[str, Any]) -> bytes:
        """The server-sent event of an error, which ends a stream."""
        return sse.event(orjson.dumps(_filled(self.event_envelope, parts)), self.event)


@dataclass(frozen=True)
class Dialect:
    """A dialect. Its name is empty if it is OpenAI's."""

    name: str
    errors: ErrorForm


_USUAL = ErrorKind(0, "")
_ENVELOPE = {"error": "{error}"}
#: The form of OpenAI's errors.
OPENAI_ERRORS = ErrorForm(_ENVELOPE, _ENVELOPE, b"", {}, {})
_OPENAI = Dialect("", OPENAI_ERRORS)


def dialect_of(method: MethodDescriptor) -> Dialect:
    """The dialect of a method, by its own option or by the one of its service. Raises SpellingError."""
    for descriptor, extension in (
        (method, options_pb2.method_dialect),
        (method.containing_service, options_pb2.dialect),
    ):
        options: Any = descriptor.GetOptions()
        if options.HasExtension(extension):
            option = options.Extensions[extension]
            if not option.name:
                raise SpellingError(f"{descriptor.full_name}: a dialect needs a name")
            return Dialect(option.name, _error_form(f"{descriptor.full_name}: dialect", option.errors))
    return _OPENAI


def _error_form(where: str, option: options_pb2.ErrorForm) -> ErrorForm:
    if not option.event.isprintable():
        raise SpellingError(f"{where}: the name of the error event is not one line")
    envelope = _document(where, option.envelope) if option.envelope else _ENVELOPE
    by_reason: dict[str, ErrorKind] = {}
    by_code: dict[grpc.StatusCode, ErrorKind] = {}
    for given in option.kinds:
        if given.status and not 400 <= given.status <= 599:
            raise SpellingError(f"{where}: {given.status} is no HTTP status of an error")
        kind = ErrorKind(given.status, given.type)
        for reason in given.reasons:
            by_reason.setdefault(reason, kind)
        for code in given.codes:
            by_code.setdefault(_CODES[code], kind)
    return ErrorForm(
        envelope=envelope,
        event_envelope=_document(where, option.event_envelope) if option.event_envelope else envelope,
        event=option.event.encode(),
        by_reason=by_reason,
        by_code=by_code,
    )


def _document(where: str, text: str) -> Any:
    try:
        document = orjson.loads(text)
    except ValueError:
        raise SpellingError(f"{where}: an envelope is no JSON: {text!r}") from None
    for part in _PART.findall(text):
        if part not in _PARTS:
            raise SpellingError(f"{where}: an error has no part {part!r}")
    return document


def _filled(document: Any, parts: Mapping[str, Any]) -> Any:
    """A copy of the document with the parts in their places."""
    match document:
        case dict():
            return {member: _filled(value, parts) for member, value in document.items()}
        case list():
            return [_filled(value, parts) for value in document]
        case str() if found := _PART.fullmatch(document):
            return parts[found[1]]
        case _:
            return document

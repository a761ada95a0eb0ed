"""Query parameters to fields: `?page_size=10&filter.name=x&tag=a&tag=b`.

Only for rules whose body does not cover all fields. A parameter that names no scalar field is ignored, as
in Google's APIs and OpenAI's; so is one that begins with "$", which Google's clients send to gateways.
"""

from collections.abc import Sequence
from urllib.parse import parse_qsl

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from inferd.rest_bridge.field_path import FieldPath, FieldPathError, resolve
from inferd.services.errors import ServiceError, invalid

#: The names and texts of a query's parameters, in their order.
Parameters = Sequence[tuple[str, str]]

_MOST_PARAMETERS = 1000
_FLAGS = {"true": True, "false": False}


def parse(query: bytes) -> Parameters:
    """The parameters of a query. Raises INVALID_ARGUMENT for what is not UTF-8, or for too many."""
    try:
        return parse_qsl(
            query.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS
        )
    except UnicodeDecodeError:
        raise _bad("the query is not UTF-8") from None
    except ValueError:
        raise _bad(f"the query has more than {_MOST_PARAMETERS} parameters") from None


def flag(parameters: Parameters, name: str) -> bool:
    """A boolean parameter that is no field of the request, such as "stream"; false where it is not given.
    Raises INVALID_ARGUMENT, naming it."""
    texts = [text for given, text in parameters if given == name]
    if len(texts) > 1 or (texts and texts[0] not in _FLAGS):
        raise invalid(name, f"{name}: expected one of {', '.join(_FLAGS)}, once")
    return _FLAGS[texts[0]] if texts else False


def bind(message: Message, kind: Descriptor, parameters: Parameters, covered: str = "") -> None:
    """Set the fields of a message of type `kind` that a query names.

    Those in the field `covered` are the body's, and are left alone. Raises INVALID_ARGUMENT, naming the
    parameter.
    """
    texts: dict[tuple[str, ...], list[str]] = {}
    paths: dict[tuple[str, ...], FieldPath] = {}
    for name, text in parameters:
        if name.startswith("$"):
            continue
        try:
            path = resolve(kind, name.split("."))
        except FieldPathError:
            continue
        if path.names[0] != covered:
            paths.setdefault(path.names, path)
            texts.setdefault(path.names, []).append(text)
    for names, path in paths.items():
        path.set(message, texts[names])


def _bad(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_QUERY", message)

"""Query parameters, set as fields of the request: `?page_size=10&filter.name=x&tag=a&tag=b`.

Not used if the HTTP rule's body is "*", because the body then sets all fields. A parameter that names no
field is ignored, as in Google's and OpenAI's APIs. So is a parameter that begins with "$", which Google's
clients send to gateways.
"""

from collections.abc import Sequence
from urllib.parse import parse_qsl

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from inferd.rest_bridge.field_path import FieldPath, FieldPathError, resolve
from inferd.services.errors import ServiceError, invalid

#: The names and values of a query's parameters, in order.
Parameters = Sequence[tuple[str, str]]

_MAX_PARAMETERS = 1000
_FLAGS = {"true": True, "false": False}


def parse(query: bytes) -> Parameters:
    """The parameters of a query string.

    Raises ServiceError INVALID_ARGUMENT (MALFORMED_QUERY) if it is not UTF-8, or has more than 1000
    parameters.
    """
    try:
        return parse_qsl(
            query.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS
        )
    except UnicodeDecodeError:
        raise _bad("the query is not UTF-8") from None
    except ValueError:
        raise _bad(f"the query has more than {_MAX_PARAMETERS} parameters") from None


def flag(parameters: Parameters, name: str) -> bool:
    """A boolean parameter that is not a field of the request, such as "stream"; false if it is absent.

    Raises ServiceError INVALID_ARGUMENT naming the parameter.
    """
    texts = [text for given, text in parameters if given == name]
    if len(texts) > 1 or (texts and texts[0] not in _FLAGS):
        raise invalid(name, f"{name}: expected one of {', '.join(_FLAGS)}, once")
    return _FLAGS[texts[0]] if texts else False


def bind(
    message: Message, kind: Descriptor, parameters: Parameters, covered: str = "", dialect: str = ""
) -> None:
    """Set the fields of a message of type `kind` that parameters name.

    `covered` is the name of the field that the body sets, or empty: parameters do not change it.
    `dialect` is the name of the JSON's dialect, or empty. Raises ServiceError INVALID_ARGUMENT naming the
    parameter.
    """
    texts: dict[tuple[str, ...], list[str]] = {}
    paths: dict[tuple[str, ...], FieldPath] = {}
    for name, text in parameters:
        if name.startswith("$"):
            continue
        try:
            path = resolve(kind, name.split("."), dialect)
        except FieldPathError:
            continue
        if path.names[0] != covered:
            paths.setdefault(path.names, path)
            texts.setdefault(path.names, []).append(text)
    for names, path in paths.items():
        path.set(message, texts[names])


def _bad(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_QUERY", message)

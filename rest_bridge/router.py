"""Finds the route of a request: a tree of path segments, walked from the most specific branch on.

A literal goes before `*`, and `*` before `**`; of two `**` the one with the longer tail of literals. What
follows the path (query, body) is not looked at.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import unquote_to_bytes

from google.protobuf.descriptor import ServiceDescriptor
from inferd.rest_bridge.errors import HttpError
from inferd.rest_bridge.path_template import Wildcard
from inferd.rest_bridge.routes import Route, RouteError, compile_routes

#: A literal; or, in a tuple, a template's verb, so that no segment of a path can be taken for one.
_Key = str | tuple[str]
_ByVerb = dict[str, Route]

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SHOWN = 200


@dataclass(frozen=True)
class Match:
    """A route, and the text of each of its template's variables; "" where `**` has matched nothing."""

    route: Route
    texts: tuple[str, ...]


@dataclass
class _Node:
    literals: dict[_Key, "_Node"] = field(default_factory=dict)
    one: "_Node | None" = None
    # By the literals that follow `**`, most of them first.
    many: dict[tuple[_Key, ...], _ByVerb] = field(default_factory=dict)
    routes: _ByVerb = field(default_factory=dict)


class Router:
    """The routes of a set of services. Raises RouteError for a bad rule, or two that match alike."""

    def __init__(self, services: Iterable[ServiceDescriptor]) -> None:
        self.routes = compile_routes(services)
        self._root = _Node()
        self._custom_verbs = {route.template.verb for route in self.routes} - {""}
        # Most paths have no variable: one look-up finds them.
        self._exact: dict[bytes, dict[str, Match]] = {}
        for route in self.routes:
            self._add(route)
            if not route.path_fields and "%" not in route.template.text and "*" not in route.template.text:
                by_verb = self._exact.setdefault(route.template.text.encode(), {})
                by_verb[route.verb] = Match(route, ())

    @property
    def fixed_paths(self) -> frozenset[bytes]:
        """The paths of routes without variables, as they are sent."""
        return frozenset(self._exact)

    def match(self, verb: str, raw_path: bytes) -> Match:
        """The route of a request, by its path as it was sent: percent-encoded, without the query.

        Every segment is split off before it is decoded. A variable's text is decoded whole, `%2F` too, even
        where it spans segments. google/api/http.proto would leave `%2F` as it is there; but names with
        slashes are what `{model=**}` is for, and OpenAI's SDKs send `a/b` as `a%2Fb`.

        Raises HttpError: 400 for what is not percent-encoded UTF-8, 404, or 405 with `allow`.
        """
        exact = self._exact.get(raw_path)
        if exact is not None:
            match = exact.get(verb)
            if match is not None:
                return match
        parts = _parts(raw_path)
        allowed: set[str] = set()
        route = self._find(verb, parts, allowed)
        if route is None:
            _refuse(verb, raw_path, allowed)
        return Match(route, _texts(route, parts))

    def _find(self, verb: str, parts: list[str], allowed: set[str]) -> Route | None:
        if self._custom_verbs:
            last, colon, custom = parts[-1].rpartition(":")
            if colon and custom in self._custom_verbs:
                keys: list[_Key] = [*parts[:-1], last, (custom,)]
                route = _walk(self._root, keys, 0, verb, allowed)
                if route is not None:
                    return route
        return _walk(self._root, parts, 0, verb, allowed)

    def _add(self, route: Route) -> None:
        template = route.template
        node, at = self._root, template.many
        end = len(template.segments) if at is None else at
        tail: tuple[_Key, ...] = ((template.verb,),) if template.verb else ()
        keys = template.segments[:end] if at is not None else (*template.segments, *tail)
        for key in keys:
            if isinstance(key, Wildcard):
                node.one = node = node.one or _Node()
            else:
                node = node.literals.setdefault(key, _Node())
        if at is None:
            routes = node.routes
        else:
            literals = [key for key in template.segments[at + 1 :] if isinstance(key, str)]
            routes = node.many.setdefault((*literals, *tail), {})
            node.many = dict(sorted(node.many.items(), key=lambda entry: -len(entry[0])))
        other = routes.setdefault(route.verb, route)
        if other is not route:
            raise RouteError(
                f"{route.method.full_name}: {route.verb} {template.text!r} matches the same paths as"
                f" {other.template.text!r} of {other.method.full_name}"
            )


def _walk(node: _Node, parts: Sequence[_Key], at: int, verb: str, allowed: set[str]) -> Route | None:
    """The most specific route; the verbs of those that differ only in theirs are added to `allowed`."""
    if at == len(parts):
        routes = node.routes
        if verb in routes:
            return routes[verb]
        allowed.update(routes)
    else:
        child = node.literals.get(parts[at])
        if child is not None:
            found = _walk(child, parts, at + 1, verb, allowed)
            if found is not None:
                return found
        # No segment is empty but under `**`: "/a/" is not a resource of "/a/*".
        if node.one is not None and parts[at] and isinstance(parts[at], str):
            found = _walk(node.one, parts, at + 1, verb, allowed)
            if found is not None:
                return found
    for tail, routes in node.many.items():
        # As in Envoy: at the end `**` may match nothing, before a tail it is one segment or more.
        start = len(parts) - len(tail)
        if start >= at + bool(tail) and tuple(parts[start:]) == tail:
            if verb in routes:
                return routes[verb]
            allowed.update(routes)
    return None


def _parts(raw_path: bytes) -> list[str]:
    try:
        if b"%" not in raw_path:
            return raw_path.decode().split("/")[1:] or [""]
        if _BAD_ESCAPE.search(raw_path):
            raise _malformed("a % is not followed by two hexadecimal digits")
        parts = raw_path.split(b"/")[1:]
        return [(unquote_to_bytes(part) if b"%" in part else part).decode() for part in parts] or [""]
    except UnicodeDecodeError:
        raise _malformed("it is not UTF-8") from None


def _texts(route: Route, parts: list[str]) -> tuple[str, ...]:
    template = route.template
    many = template.many
    if template.verb:
        parts = [*parts[:-1], parts[-1].removesuffix(f":{template.verb}")]
    # How many segments more than one `**` has matched.
    more = len(parts) - len(template.segments)
    texts = []
    for variable in template.variables:
        start, stop = variable.start, variable.stop
        if many is not None:
            start += more if start > many else 0
            stop += more if stop > many else 0
        texts.append("/".join(parts[start:stop]))
    return tuple(texts)


def _refuse(verb: str, raw_path: bytes, allowed: set[str]) -> NoReturn:
    path = raw_path[:_SHOWN].decode(errors="replace")
    if not allowed:
        raise HttpError(404, "path_not_found", f"there is nothing at {path}")
    verbs = ", ".join(sorted(allowed))
    raise HttpError(
        405,
        "method_not_allowed",
        f"{path} does not take {verb}, but {verbs}",
        [(b"allow", verbs.encode())],
    )


def _malformed(fault: str) -> HttpError:
    return HttpError(400, "malformed_path", f"the path is not percent-encoded text: {fault}")

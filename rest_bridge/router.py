"""Finds the route of a request by its method and path, in a tree of path segments.

The most specific route wins: a literal before `*`, `*` before `**`, and of two `**` the one that more
literals follow. The query and the body play no part.
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

#: A literal segment; or the verb of a template (the literal after its colon), in a tuple, so that it differs
#: from every literal.
_Key = str | tuple[str]
#: Routes by HTTP method.
_ByMethod = dict[str, Route]

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
#: Characters of a path that an error message repeats.
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class Match:
    """A route, and the text of each variable of its template, which is empty if `**` matched nothing."""

    route: Route
    texts: tuple[str, ...]


@dataclass
class _Node:
    literals: dict[_Key, "_Node"] = field(default_factory=dict)
    one_segment: "_Node | None" = None
    #: By the literals that follow `**`; the keys with the most literals come first.
    many_segments: dict[tuple[_Key, ...], _ByMethod] = field(default_factory=dict)
    routes: _ByMethod = field(default_factory=dict)


class Router:
    """The routes of services. Raises RouteError for a bad HTTP rule, and for two rules for the same paths."""

    def __init__(self, services: Iterable[ServiceDescriptor]) -> None:
        self.routes = compile_routes(services)
        self._root = _Node()
        self._custom_verbs = {route.template.verb for route in self.routes} - {""}
        # Most requests are for paths without variables, which one look-up finds.
        self._exact: dict[bytes, dict[str, Match]] = {}
        for route in self.routes:
            self._add(route)
            if not route.path_fields and "%" not in route.template.text and "*" not in route.template.text:
                by_method = self._exact.setdefault(route.template.text.encode(), {})
                by_method[route.verb] = Match(route, ())

    @property
    def fixed_paths(self) -> frozenset[bytes]:
        """The paths of routes without variables, as clients send them."""
        return frozenset(self._exact)

    def match(self, verb: str, raw_path: bytes) -> Match:
        """The route for an HTTP method (`verb`) and a path, percent-encoded as it was sent, without the
        query.

        The path is split into segments before they are decoded. In a variable's text `%2F` is decoded too,
        also if the variable spans segments. google/api/http.proto would keep `%2F` there; but `{model=**}` is
        for names with slashes, and OpenAI's SDKs send `a/b` as `a%2Fb`.

        Raises HttpError: 400 if the path is not percent-encoded UTF-8, 404 if no route has the path, 405
        (with the header Allow) if a route has it for other methods only.
        """
        exact = self._exact.get(raw_path)
        if exact is not None:
            match = exact.get(verb)
            if match is not None:
                return match
        parts = _segments(raw_path)
        allowed: set[str] = set()
        route = self._find(verb, parts, allowed)
        if route is None:
            _refuse(verb, raw_path, allowed)
        return Match(route, _variable_texts(route, parts))

    def _find(self, verb: str, parts: list[str], allowed: set[str]) -> Route | None:
        if self._custom_verbs:
            last, colon, custom = parts[-1].rpartition(":")
            if colon and custom in self._custom_verbs:
                keys: list[_Key] = [*parts[:-1], last, (custom,)]
                route = _find_route(self._root, keys, 0, verb, allowed)
                if route is not None:
                    return route
        return _find_route(self._root, parts, 0, verb, allowed)

    def _add(self, route: Route) -> None:
        template = route.template
        node, at = self._root, template.many_index
        end = len(template.segments) if at is None else at
        tail: tuple[_Key, ...] = ((template.verb,),) if template.verb else ()
        keys = template.segments[:end] if at is not None else (*template.segments, *tail)
        for key in keys:
            if isinstance(key, Wildcard):
                node.one_segment = node = node.one_segment or _Node()
            else:
                node = node.literals.setdefault(key, _Node())
        if at is None:
            routes = node.routes
        else:
            literals = [key for key in template.segments[at + 1 :] if isinstance(key, str)]
            routes = node.many_segments.setdefault((*literals, *tail), {})
            node.many_segments = dict(sorted(node.many_segments.items(), key=lambda entry: -len(entry[0])))
        other = routes.setdefault(route.verb, route)
        if other is not route:
            raise RouteError(
                f"{route.method.full_name}: {route.verb} {template.text!r} matches the same paths as"
                f" {other.template.text!r} of {other.method.full_name}"
            )


def _find_route(node: _Node, parts: Sequence[_Key], at: int, verb: str, allowed: set[str]) -> Route | None:
    """The most specific route of the segments from `at` on.

    HTTP methods of routes that have this path, but not the method `verb`, are added to `allowed`.
    """
    if at == len(parts):
        routes = node.routes
        if verb in routes:
            return routes[verb]
        allowed.update(routes)
    else:
        child = node.literals.get(parts[at])
        if child is not None:
            found = _find_route(child, parts, at + 1, verb, allowed)
            if found is not None:
                return found
        # Only `**` matches empty segments: "/a/" does not match "/a/*".
        if node.one_segment is not None and parts[at] and isinstance(parts[at], str):
            found = _find_route(node.one_segment, parts, at + 1, verb, allowed)
            if found is not None:
                return found
    for tail, routes in node.many_segments.items():
        # As in Envoy, `**` at the end may match nothing, but before other literals it matches one segment or
        # more.
        start = len(parts) - len(tail)
        if start >= at + bool(tail) and tuple(parts[start:]) == tail:
            if verb in routes:
                return routes[verb]
            allowed.update(routes)
    return None


def _segments(raw_path: bytes) -> list[str]:
    try:
        if b"%" not in raw_path:
            return raw_path.decode().split("/")[1:] or [""]
        if _BAD_ESCAPE.search(raw_path):
            raise _malformed("a % is not followed by two hexadecimal digits")
        parts = raw_path.split(b"/")[1:]
        return [(unquote_to_bytes(part) if b"%" in part else part).decode() for part in parts] or [""]
    except UnicodeDecodeError:
        raise _malformed("it is not UTF-8") from None


def _variable_texts(route: Route, parts: list[str]) -> tuple[str, ...]:
    template = route.template
    many = template.many_index
    if template.verb:
        parts = [*parts[:-1], parts[-1].removesuffix(f":{template.verb}")]
    # Segments that `**` matched beyond the first one.
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
    path = raw_path[:_SHOWN_CHARACTERS].decode(errors="replace")
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

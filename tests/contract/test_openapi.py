"""The bodies and headers of the corpus's requests and answers are as /openapi.json tells."""

import json
import re
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.contract.corpus import GROUPS, Case
from tests.contract.test_parity import send

_DOCUMENT = "urn:openapi"
#: Headers of HTTP itself.
_PLAIN = {"date", "content-type", "content-length", "transfer-encoding", "cache-control", "x-accel-buffering"}
_PLAIN |= {"connection", "accept", "accept-encoding"}


class Described:
    """The operations of the document, by method and path."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        resource = DRAFT202012.create_resource(document)
        self._registry: Registry[Any] = Registry().with_resource(_DOCUMENT, resource)
        self._validators: dict[str, Draft202012Validator] = {}
        # A variable may have slashes. The longest path is the most special one.
        self._paths = [
            (re.compile(re.sub(r"\\\{[^}]*\\\}", ".+", re.escape(path))), operations)
            for path, operations in sorted(document["paths"].items(), key=lambda item: -len(item[0]))
        ]

    def operation(self, request: httpx.Request) -> dict[str, Any] | None:
        for pattern, operations in self._paths:
            if pattern.fullmatch(request.url.path) and request.method.lower() in operations:
                return dict(operations[request.method.lower()])
        return None

    def resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        """The node, or the component that the node refers to."""
        if "$ref" not in node:
            return node
        *_, kind, name = node["$ref"].split("/")
        return dict(self._document["components"][kind][name])

    def faults(self, schema: dict[str, Any], value: Any) -> list[str]:
        key = json.dumps(schema)
        if key not in self._validators:
            whole = json.loads(key.replace('"#/', f'"{_DOCUMENT}#/'))
            self._validators[key] = Draft202012Validator(whole, registry=self._registry)
        return [
            f"{error.json_path}: {error.message}"[:300] for error in self._validators[key].iter_errors(value)
        ]


@pytest.mark.parametrize("group", GROUPS)
async def test_the_document_tells_what_the_server_does(start_inferd, group):
    inferd = await start_inferd()
    failures = []
    async with inferd.http() as http:
        described = Described((await http.get("/openapi.json")).json())
        for case in GROUPS[group]:
            response = await send(http, case, "an-id")
            failures += [f"{case.name}: {fault}" for fault in faults(described, case, response)]
    assert not failures, "\n".join(failures)


def faults(described: Described, case: Case, response: httpx.Response) -> list[str]:
    """What the document does not tell of a request that was answered, or of its answer."""
    operation = described.operation(response.request)
    if operation is None:
        return [] if response.status_code in (404, 405) else ["no operation"]
    found = []
    if response.status_code < 300 and response.request.content:
        media = operation["requestBody"]["content"]["application/json"]
        body = json.loads(response.request.content)
        found += [f"the request: {fault}" for fault in described.faults(media["schema"], body)]
    responses = operation["responses"]
    told = described.resolved(responses.get(str(response.status_code), responses["default"]))
    names = {name.lower() for name in told["headers"]}
    found += [f"the header {name}" for name in response.headers if name not in names | _PLAIN]
    kind = response.headers["content-type"].partition(";")[0]
    schema = told["content"][kind]["schema"]
    if kind == "application/json":
        return found + described.faults(schema, response.json())
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    for event in events[:-1]:
        found += described.faults(schema["contentSchema"]["items"], json.loads(event))
    return found

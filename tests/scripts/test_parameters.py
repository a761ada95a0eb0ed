"""docs/parameters.md lists each parameter of OpenAI's and SGLang's completions."""

import ast
import importlib.util
import inspect
import sys
from pathlib import Path

import pytest
from openai.resources.chat.completions import Completions as ChatCompletions
from openai.resources.completions import Completions

from inferd.v1 import chat_pb2, completion_pb2

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import parameters

REQUESTS = {
    "chat": chat_pb2.CreateChatCompletionRequest.DESCRIPTOR,
    "text": completion_pb2.CreateCompletionRequest.DESCRIPTOR,
}
#: The SDK's own: how it sends, not what.
TRANSPORT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}


def sglang_fields(*names: str) -> set[str]:
    """The fields of SGLang's request classes, read from its source: importing it needs a GPU's libraries."""
    spec = importlib.util.find_spec("sglang")
    assert spec is not None and spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0], "srt/entrypoints/openai/protocol.py").read_text()
    return {
        statement.target.id
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name in names
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        if not statement.target.id.startswith("_")
    }


def test_the_page_is_what_the_protos_say():
    assert parameters.PAGE.read_text() == parameters.page(), "run: make generate"


@pytest.mark.parametrize(("kind", "create"), [("chat", ChatCompletions.create), ("text", Completions.create)])
def test_it_has_every_parameter_of_openais_sdk(kind, create):
    known = parameters.rows(REQUESTS[kind], "stream")
    wanted = set(inspect.signature(create).parameters) - TRANSPORT
    assert len(wanted) > 10
    assert wanted - known.keys() == set()


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("chat", ("ChatCompletionRequest", "PDRoutingFields")),
        ("text", ("CompletionRequest", "PDRoutingFields")),
    ],
)
def test_it_has_every_parameter_of_sglang(kind, names):
    wanted = sglang_fields(*names)
    assert len(wanted) > 40
    assert wanted - parameters.rows(REQUESTS[kind], "stream").keys() == set()

"""The reasons that the code raises are those of inferd.v1.ErrorReason, each with its code and status."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.rpc import code_pb2

from inferd.options.v1 import options_pb2
from inferd.rest_bridge.errors import status_of
from inferd.v1 import error_reason_pb2

ROOT = Path(__file__).parents[2]
FILES = [*ROOT.glob("services/**/*.py"), *ROOT.glob("rest_bridge/**/*.py")]
ENUM = error_reason_pb2.ErrorReason.DESCRIPTOR
#: Reasons of errors between a runtime's adapter and its callers, which no client gets.
INNER = {"NO_LOADS", "NO_TOKENIZER"}
#: The position of the reason among the arguments.
REASON_ARGUMENT = {"ServiceError": 1, "invalid": 2, "Mismatch": 1, "HttpError": 1, "_serialized": 1}


def raised() -> Iterator[tuple[str, str, ast.Call]]:
    """Each error that is made with a constant reason: the class or function, the reason, the call."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            position = REASON_ARGUMENT.get(node.func.id)
            if position is None or len(node.args) <= position:
                continue
            reason = node.args[position]
            if isinstance(reason, ast.Constant):
                yield node.func.id, str(reason.value).upper(), node


RAISED = list(raised())


def code_of(reason: str) -> str:
    return code_pb2.Code.Name(ENUM.values_by_name[reason].GetOptions().Extensions[options_pb2.code])


def test_every_reason_is_declared():
    assert {reason for _, reason, _ in RAISED} - INNER <= set(ENUM.values_by_name)


def test_every_declared_reason_is_raised():
    generic = {"INVALID_ARGUMENT", "ERROR_REASON_UNSPECIFIED"}
    assert set(ENUM.values_by_name) - generic == {reason for _, reason, _ in RAISED} - INNER - generic


@pytest.mark.parametrize("reason", sorted({reason for _, reason, _ in RAISED} - INNER))
def test_a_reason_comes_with_its_code_and_status(reason):
    for name, found, call in RAISED:
        if found != reason:
            continue
        match name, call.args[0]:
            case "ServiceError" | "_serialized", ast.Attribute(attr=code):
                assert code == code_of(reason), ast.unparse(call)
            case "invalid" | "Mismatch", _:
                assert code_of(reason) == "INVALID_ARGUMENT", ast.unparse(call)
            case "HttpError", ast.Constant(value=status):
                assert status == status_of(reason), ast.unparse(call)

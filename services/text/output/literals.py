"""Turns a value that a model wrote as bare text, or as a Python literal, into JSON text.

Does not know where the value ended: that is the readers'.
"""

import ast
import json
import math
import re
from typing import Any

from inferd.services.text.output.value_types import STRING, fits

_NAMES = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
# A number such as a month may be written, and Python does not: 07.
_PADDED = re.compile(r"\A0+(?=[1-9][0-9]*\Z)")
# What the parsers of JSON and of Python raise for text that is none, nested too deeply, or a huge number.
_UNREADABLE = (ValueError, SyntaxError, RecursionError, MemoryError)


def json_of_text(text: str, types: frozenset[str]) -> str:
    """The JSON of a parameter's text, which its format writes bare if it is a string and else in JSON.

    `types` are those its schema allows (none: any). Text that is nothing else is a string.
    """
    bare = text.strip()
    try:
        value = json.loads(bare, parse_constant=_refuse)
        is_json = True
    except _UNREADABLE:
        is_json = False
    if is_json and (fits(value, types - STRING) or not (isinstance(value, str) or "string" in types)):
        return bare
    if is_json and isinstance(value, str) and types and "string" not in types:
        return bare
    if types and "string" not in types:
        try:
            return json_of_python(bare)
        except ValueError:
            pass
    return json.dumps(text, ensure_ascii=False)


def json_of_python(text: str) -> str:
    """The JSON of a Python literal; `true`, `false` and `null` are as good. ValueError for anything else."""
    try:
        value = _value(ast.parse(_PADDED.sub("", text.strip()), mode="eval").body)
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (*_UNREADABLE, TypeError) as error:
        raise ValueError(f"no literal: {type(error).__name__}") from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | str()):
            return node.value
        case ast.Constant(value=float() as number) if math.isfinite(number):
            return number
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float() as number)):
            return -number if isinstance(node.op, ast.USub) else number
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            return [_value(element) for element in elements]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _value(value) for key, value in zip(keys, values, strict=True)}
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case _:
            raise ValueError(type(node).__name__)


def _key(node: ast.expr | None) -> str:
    key = _value(node) if node else None
    return key if isinstance(key, str) else json.dumps(key)


def _refuse(constant: str) -> None:
    raise ValueError(constant)

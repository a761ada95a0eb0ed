"""Data flows one way: a lower layer never imports a higher one."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: For each folder, or file, what it must not import.
FORBIDDEN = {
    "services/runtimes": ("services.text", "services.chat", "services.replicas", "rest_bridge"),
    "services/text": ("services.runtimes", "services.replicas", "services.catalog", "rest_bridge"),
    "services": ("rest_bridge", "fastapi", "starlette", "uvicorn"),
    "rest_bridge": (
        "services.chat",
        "services.text",
        "services.runtimes",
        "services.catalog",
        "smg_grpc_proto",
    ),
}
#: The composition root: it puts the layers together.
ROOTS = {"services/front.py", "services/cli.py"}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_module_imports_a_higher_layer(folder):
    modules = [path for path in (ROOT / folder).rglob("*.py") if str(path.relative_to(ROOT)) not in ROOTS]
    assert modules
    for path in modules:
        for name in imports(path):
            for forbidden in FORBIDDEN[folder]:
                assert name != forbidden, path
                assert not name.startswith(forbidden + "."), path

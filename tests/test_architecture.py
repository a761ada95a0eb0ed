"""Data flows one way: which package may import which, and what each package shows to others.

docs/architecture.md has the same table, for people.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: What each package may import of inferd's own, beside itself, `errors` and generated code.
ALLOWED = {
    "errors": set(),
    "net": set(),
    "net.http2": {"net"},
    "text": set(),
    "config": {"net", "text"},
    "runtimes": {"net", "net.http2"},
    "launch": set(),
    "prompt": {"config", "net", "runtimes", "text"},
    "constraints": {"runtimes", "text"},
    "fleet": {"prompt", "runtimes", "text"},
    "generation": {"fleet", "net", "runtimes", "text"},
    "calls": {"net", "net.http2"},
    "api": {"calls", "constraints", "fleet", "generation", "net", "prompt", "runtimes", "text"},
    "queue": {"api", "calls", "config", "fleet", "net"},
    "rest_bridge": {"calls", "net"},
    # What is started: it puts everything together.
    "app": {
        *("api", "calls", "config", "fleet", "launch", "net", "net.http2", "prompt", "queue", "rest_bridge"),
        *("runtimes", "text"),
    },
}
#: Modules of other people's that only some packages may import.
RESERVED = {
    "fastapi": {"rest_bridge"},
    "starlette": {"rest_bridge"},
    "uvicorn": {"rest_bridge"},
    "sqlalchemy": {"queue"},
    "alembic": {"queue"},
    "h2": {"net.http2"},
    "hpack": {"net.http2"},
    "transformers": {"launch", "text"},
    "tokenizers": {"text"},
    "torch": {"launch"},
    "sglang": {"launch"},
    "smg_grpc_proto": {"runtimes"},
    "typer": {"app"},
    "rich": {"app"},
}
GENERATED = ("inferd.v1", "inferd.options")


@dataclass(frozen=True)
class Import:
    """`names` of `module`, imported by a file of `package`."""

    file: Path
    package: str
    module: str
    names: tuple[str, ...]


def package_of(module: str) -> str:
    """The package that a module of inferd's belongs to, by the names of `ALLOWED`."""
    parts = module.split(".")
    if parts[1] == "rest_bridge":
        return "rest_bridge"
    if len(parts) < 3:
        return "services"
    return "net.http2" if parts[2:4] == ["net", "http2"] else parts[2]


def module_of(file: Path) -> str:
    return "inferd." + str(file.with_suffix("")).replace("/", ".").removesuffix(".__init__")


def imports_of(source: str, file: Path) -> Iterator[Import]:
    """All imports of a file, by their absolute names, those within functions included."""
    package = package_of(module_of(file))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, package, alias.name, ())
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parts = module_of(file).split(".")
                base = parts[: len(parts) - node.level + (file.name == "__init__.py")]
                module = ".".join([*base, module]) if module else ".".join(base)
            yield Import(file, package, module, tuple(alias.name for alias in node.names))


def faces() -> dict[str, set[str]]:
    """By package: the full names that its `__init__` shows to others. Read without importing."""
    found: dict[str, set[str]] = {}
    for init in [*(ROOT / "services").glob("*/__init__.py"), ROOT / "services/net/http2/__init__.py"]:
        for node in ast.parse(init.read_text()).body:
            target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
            if isinstance(target, ast.Name) and target.id == "FACE":
                module = module_of(init.relative_to(ROOT))
                face = ast.literal_eval(node.value)
                found[package_of(module + ".x")] = {
                    f"{module}.{name}.{item}" for name, items in face.items() for item in items
                }
    return found


FACES = faces()


def faults_of(found: Import) -> Iterator[str]:
    """What an import breaks."""
    top = found.module.split(".")[0]
    allowed_in = RESERVED.get(top)
    if allowed_in is not None and found.package not in allowed_in:
        yield f"{found.package} may not import {top}"
    if top in ("services", "rest_bridge"):
        yield f"{found.module} is imported by another name than inferd"
    if top != "inferd" or found.module.startswith(GENERATED):
        return
    if found.module in ("inferd", "inferd.services", "inferd.rest_bridge"):
        if {f"{found.module}.{name}" for name in found.names} <= {*GENERATED, "inferd.services.errors"}:
            return
        if package_of(found.module + ".x.y") != found.package:
            yield f"{found.package} imports {found.names} of {found.module}: name the module"
        return
    other = package_of(found.module)
    if other in (found.package, "errors"):
        return
    if other not in ALLOWED[found.package]:
        yield f"{found.package} may not import {other}"
    if other in FACES:
        for name in found.names:
            if f"{found.module}.{name}" not in FACES[other]:
                yield f"{found.module}.{name} is not in the face of {other}"
        if not found.names:
            yield f"{found.module} is imported whole: import names of the face of {other}"


def sources() -> list[Path]:
    return sorted(
        path.relative_to(ROOT)
        for folder in ("services", "rest_bridge")
        for path in (ROOT / folder).rglob("*.py")
    )


def test_every_package_is_in_the_table_and_has_a_face() -> None:
    packages = {package_of(module_of(path)) for path in sources()} - {"services"}
    assert packages == set(ALLOWED)
    assert set(FACES) == packages - {"errors", "config", "rest_bridge"}


def test_the_table_has_no_cycle() -> None:
    left = dict(ALLOWED)
    while left:
        free = [name for name, imports in left.items() if not imports & left.keys()]
        assert free, f"a cycle among {sorted(left)}"
        for name in free:
            del left[name]


@pytest.mark.parametrize("path", sources(), ids=str)
def test_imports_keep_to_the_table_and_the_faces(path: Path) -> None:
    faults = [fault for found in imports_of((ROOT / path).read_text(), path) for fault in faults_of(found)]
    assert not faults


def test_no_face_shows_a_name_that_nobody_imports() -> None:
    used = {
        f"{found.module}.{name}"
        for path in sources()
        for found in imports_of((ROOT / path).read_text(), path)
        if found.module.startswith("inferd.services") and package_of(found.module) != found.package
        for name in found.names
    }
    declarations = [path for folder in ("services", "rest_bridge") for path in (ROOT / folder).rglob("*.pxd")]
    for path in declarations:
        used |= {
            f"{module}.{name}"
            for module, name in re.findall(r"^from ([\w.]+) cimport (\w+)$", path.read_text(), re.M)
        }
    assert set().union(*FACES.values()) <= used


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("services/text/stop.py", "from inferd.services.fleet.catalog import Catalog"),
        ("services/text/stop.py", "from inferd.services import fleet"),
        ("services/text/stop.py", "from ..fleet.catalog import Catalog"),
        ("services/text/stop.py", "from .. import fleet"),
        ("services/text/stop.py", "import inferd.services.fleet.catalog"),
        ("services/text/stop.py", "def late():\n    from inferd.services.runtimes.base import Delta"),
        ("services/runtimes/base.py", "from inferd.services.text.model_text import ModelText"),
        ("services/net/flow.py", "from inferd.services.runtimes.base import Delta"),
        ("services/net/flow.py", "from inferd.services.net.http2.channel import Channel"),
        ("services/api/chat.py", "from inferd.rest_bridge.bridge import Bridge"),
        ("services/api/chat.py", "from inferd import rest_bridge"),
        ("services/api/chat.py", "from inferd.services.generation.failures import Failures"),
        ("services/api/chat.py", "from services.fleet.catalog import Catalog"),
        ("services/api/chat.py", "import fastapi"),
        ("services/runtimes/http.py", "from h2.connection import H2Connection"),
        ("rest_bridge/bridge.py", "from inferd.services.api.chat import ChatServicer"),
        ("rest_bridge/bridge.py", "from inferd.services.calls.deadline import Deadline"),
        ("rest_bridge/bridge.py", "from ..services.text.tokenizer import Tokenizer"),
    ],
)
def test_a_planted_violation_is_found(file: str, line: str) -> None:
    assert [fault for found in imports_of(line, Path(file)) for fault in faults_of(found)]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("services/text/stop.py", "from inferd.services.errors import invalid"),
        ("services/text/stop.py", "from inferd.services.text.tokenizer import Tokenizer"),
        ("services/text/stop.py", "from .tokenizer import Tokenizer"),
        ("services/api/chat.py", "from inferd.v1 import chat_pb2"),
        ("services/api/chat.py", "from inferd.services.fleet.catalog import Catalog"),
        ("rest_bridge/bridge.py", "from inferd.rest_bridge import sse"),
        ("rest_bridge/bridge.py", "from inferd.services.net.timeouts import SharedTimeout"),
        ("services/app/server_process.py", "from inferd.rest_bridge.app import create_app"),
    ],
)
def test_an_allowed_import_is_no_violation(file: str, line: str) -> None:
    assert not [fault for found in imports_of(line, Path(file)) for fault in faults_of(found)]


def test_the_documentation_has_the_same_table() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = dict(
        re.findall(r"^\| `?([\w.]+)`? \| ([^|]*) \|$", page.partition("### Who may import whom")[2], re.M)
    )
    for package, imports in ALLOWED.items():
        if package == "errors":
            continue
        told = "everything" if package == "app" else ", ".join(sorted(imports)) or "nothing"
        assert rows[package] == told, package

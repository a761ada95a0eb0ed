"""Generators of clients read /openapi.json whole. Their clients compile, and chat with an inferd.

Redocly lints the document, and Swagger UI shows it in a simulated browser. A test is skipped if the machine
does not have the generator's language.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.interop.scripted_model import ANSWERS
from tests.support.clients import PROGRAMS, environment

OURS = PROGRAMS / "openapi"
_SECONDS = 420

#: What each client sees. The answer has 11 tokens.
SEEN = {
    "whole": [ANSWERS["Say hello."], 11],
    "streamed": ANSWERS["Say hello."],
    "called": ["function", "get_weather"],
    "refused": [400, "out_of_range", "temperature"],
}

#: Settings of openapi-generator: no tests and no documents; members that a newer server adds are accepted.
_SETTINGS = [
    "--global-property",
    "models,apis,supportingFiles,modelDocs=false,apiDocs=false,modelTests=false,apiTests=false",
    "--additional-properties",
    "disallowAdditionalPropertiesIfNotPresent=false",
]


@pytest.fixture(scope="module")
def document(scripted_url) -> dict[str, Any]:
    response = httpx.get(f"{scripted_url}/openapi.json")
    return response.raise_for_status().json()


@pytest.fixture(scope="module")
def file(document, tmp_path_factory) -> Path:
    """The document as a file."""
    path = tmp_path_factory.mktemp("openapi") / "openapi.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def operations(document) -> dict[str, tuple[str, str]]:
    """The method and path of each operation, by its id."""
    found = {
        operation["operationId"]: (method, path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert len(found) > 20
    return found


def run(folder: Path, *command: str | Path) -> str:
    """What a command prints, which must end well. It may use the programs and packages of the environment."""
    programs = environment() / "bin"
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        env={
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "NO_PROXY": "127.0.0.1",
            "GOTOOLCHAIN": "local",
            "REDOCLY_TELEMETRY": "off",
        },
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout[-6000:]}"
    return done.stdout


def seen(printed: str) -> dict[str, Any]:
    """The last line that a program prints, an object in JSON."""
    document = json.loads(printed.splitlines()[-1])
    assert isinstance(document, dict)
    return document


def plain(name: str) -> str:
    """A name without its case and its separators, because generators change both."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def generator_jar() -> Path:
    """The jar of openapi-generator. The test is skipped if it is not installed."""
    found = list((environment() / "java").glob("openapi-generator-cli-*.jar"))
    if not found:
        pytest.skip("openapi-generator needs java, javac and mvn, which this machine does not have")
    return found[0]


def need_go() -> None:
    if not (environment() / "go").is_dir():
        pytest.skip("the Go clients need Go as go.mod says, which this machine does not have")


def node_folder(folder: Path) -> Path:
    """A folder whose programs find the packages of the environment."""
    (folder / "node_modules").symlink_to(environment() / "node_modules")
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def test_redocly_finds_nothing(file, tmp_path):
    report = run(node_folder(tmp_path), "node_modules/.bin/redocly", "lint", "--format=json", file)
    found = json.loads(report[report.index("{") : report.rindex("}") + 1])
    assert found["totals"] == {"errors": 0, "warnings": 0, "ignored": 0}, found["problems"]


def test_swagger_ui_shows_all_operations(scripted_url, operations, tmp_path):
    shutil.copy(OURS / "swagger_ui.mjs", node_folder(tmp_path))
    page = seen(run(tmp_path, "node", "swagger_ui.mjs", scripted_url))
    assert sorted(map(tuple, page["operations"])) == sorted(operations.values())
    assert page["tags"][0] == "ChatService" and page["tags"][-1] == "Aliases"
    assert page["faults"] == page["errors"] == []


def test_openapi_typescript(scripted_url, file, operations, tmp_path):
    shutil.copy(OURS / "chat.ts", node_folder(tmp_path))
    run(tmp_path, "node_modules/.bin/openapi-typescript", file, "-o", "schema.ts")
    written = (tmp_path / "schema.ts").read_text()
    assert set(operations) == set(re.findall(r'operations\["(\w+)"\]', written))
    options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext"]
    options += ["--allowImportingTsExtensions", "--types", "node"]
    run(tmp_path, "node_modules/.bin/tsc", *options, "chat.ts")
    assert seen(run(tmp_path, "node", "chat.ts", scripted_url)) == SEEN


def test_openapi_python_client(scripted_url, file, operations, tmp_path):
    written = tmp_path / "generated"
    options = ["--path", file, "--output-path", written, "--meta", "none", "--fail-on-warning"]
    run(tmp_path, "openapi-python-client", "generate", *options)
    modules = [path.stem for path in written.glob("api/*/*.py") if path.stem != "__init__"]
    assert sorted(map(plain, modules)) == sorted(map(plain, operations))
    found = seen(run(tmp_path, "python", OURS / "chat.py", tmp_path, scripted_url))
    assert found == {**SEEN, "arriving": SEEN["streamed"], "models": ["small"]}


def test_openapi_generator_java(scripted_url, file, operations, tmp_path):
    jar = generator_jar()
    run(tmp_path, "java", "-jar", jar, "generate", "-i", file, "-g", "java", "-o", "client", *_SETTINGS)
    sources = sorted(tmp_path.glob("client/src/main/java/**/*.java"))
    apis = "\n".join(path.read_text() for path in sources if path.parent.name == "api")
    called = re.findall(r"ApiResponse<[^(]*> (\w+)WithHttpInfo\(", apis)
    assert sorted(map(plain, called)) == sorted(map(plain, operations))
    packages = os.pathsep.join(str(path) for path in jar.parent.glob("*.jar") if path != jar)
    run(
        tmp_path,
        "javac",
        "-proc:none",
        "-nowarn",
        "-d",
        "classes",
        "-cp",
        packages,
        *sources,
        OURS / "Chat.java",
    )
    classes = os.pathsep.join(["classes", packages])
    assert seen(run(tmp_path, "java", "-cp", classes, "Chat", scripted_url)) == SEEN


def test_go(scripted_url, file, operations, tmp_path):
    """Both generators for Go, whose clients are compiled into one program."""
    need_go()
    jar = generator_jar()
    for name in ("go.mod", "go.sum", "clients.go"):
        shutil.copy(OURS / name, tmp_path)
    names = ["--package-name", "generator", "-o", "generator"]
    run(tmp_path, "java", "-jar", jar, "generate", "-i", file, "-g", "go", *names, *_SETTINGS)
    # The generated code becomes a package of this folder's module.
    (tmp_path / "generator" / "go.mod").unlink()
    (tmp_path / "codegen").mkdir()
    # Without skip-prune, the types that only events have are left out.
    what = "types,client,skip-prune"
    run(tmp_path, "oapi-codegen", "-package", "codegen", "-generate", what, "-o", "codegen/client.go", file)

    apis = "\n".join(path.read_text() for path in tmp_path.glob("generator/api_*.go"))
    called = re.findall(r"^func \(a \*\w+\) (\w+)Execute\(", apis, re.MULTILINE)
    assert sorted(map(plain, called)) == sorted(map(plain, operations))
    written = (tmp_path / "codegen" / "client.go").read_text()
    # A method with a body has a second function, whose name ends in WithBody.
    called = re.findall(r"^func \(c \*ClientWithResponses\) (\w+)WithResponse\(", written, re.MULTILINE)
    called = [name for name in called if not name.endswith("WithBody")]
    assert sorted(map(plain, called)) == sorted(map(plain, operations))

    run(tmp_path, "go", "build", "-o", "clients", ".")
    assert seen(run(tmp_path, tmp_path / "clients", scripted_url)) == {"generator": SEEN, "codegen": SEEN}

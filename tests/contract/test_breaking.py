"""`buf breaking` finds changes that break generated clients, and lets additions pass."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import google.api
import pytest

ROOT = Path(__file__).parents[2]
#: Third parties' protos that the contract imports. `make generate` copies them, too.
GOOGLE = Path(google.api.__path__[0]).parent
#: The descriptors of the protos before a change.
OLD = "old.binpb"

#: Changes that break clients: the file, a pattern, and what replaces its only match.
BREAKS = {
    "a deleted RPC": ("tokenize", r"rpc Detokenize\((.|\n)*?\n  }\n", ""),
    "a renamed RPC": ("queue", "rpc ListJobs", "rpc FindJobs"),
    "a renamed service": ("models", "service ModelService", "service ModelsService"),
    "another request": ("models", r"rpc GetModel\(GetModelRequest\)", "rpc GetModel(ListModelsRequest)"),
    "another response": ("models", r"(rpc GetModel.*)returns \(Model\)", r"\1returns (ListModelsResponse)"),
    "a stream that is none": (
        "chat",
        r"returns \(stream ChatCompletionChunk\)",
        "returns (ChatCompletionChunk)",
    ),
    "another idempotency": ("queue", r"(rpc CancelJob(.|\n)*?)IDEMPOTENT", r"\1NO_SIDE_EFFECTS"),
    "lost presence": ("chat", "optional double temperature", "double temperature"),
    "a renamed field": ("chat", "optional double top_p", "optional double nucleus"),
    "another type": ("chat", "optional uint32 max_tokens", "optional uint64 max_tokens"),
    "another number": ("chat", "cache_salt = 36", "cache_salt = 136"),
    "a list that was one value": ("chat", "optional string cache_salt", "repeated string cache_salt"),
    "a deleted enum value": ("error_reason", r"EMPTY_PROMPT = 13 .*;", ""),
    "a renamed enum value": ("message", "ROLE_USER", "ROLE_HUMAN"),
    "another go_package": ("chat", 'go_package = "', 'go_package = "example.com/'),
    "another java_package": ("queue", 'java_package = "', 'java_package = "com.'),
    "one Java file": ("queue", "java_multiple_files = true", "java_multiple_files = false"),
    "another C# namespace": ("sampling", 'csharp_namespace = "', 'csharp_namespace = "Other.'),
    "another Ruby module": ("sampling", 'ruby_package = "', 'ruby_package = "Other::'),
    "another PHP namespace": ("sampling", 'php_namespace = "', r'php_namespace = "Other\\\\'),
}
ADDITIONS = {
    "an RPC": (
        "models",
        r"(service ModelService {)",
        r"\1\n  // New.\n  rpc NewCall(NewCallRequest) returns (Model);",
    ),
    "a field": (
        "chat",
        "(message CreateChatCompletionRequest {)",
        r"\1\n  // New.\n  optional bool new = 9999;",
    ),
    "an enum value": ("error_reason", r"(EMPTY_PROMPT = 13)", r"NEW_REASON = 9999;\n  \1"),
    "an arm of a union": ("message", r"(oneof [a-z_]+ {)", r"\1\n    // New.\n    string new_arm = 9999;"),
    "a comment": ("chat", "// Answers conversations.", "// Answers all conversations."),
}
NEW_MESSAGE = {"models": "\n// New.\nmessage NewCallRequest {}\n"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The protos as they are, with all that buf needs."""
    folder = tmp_path_factory.mktemp("protos")
    shutil.copy(ROOT / "buf.yaml", folder)
    shutil.copytree(ROOT / "protos", folder / "protos")
    for name in ("api/annotations", "api/field_behavior", "api/http", "rpc/code", "rpc/status"):
        target = folder / f".third_party/google/{name}.proto"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(GOOGLE / f"{name}.proto", target)
    assert buf(folder, "build", "protos", "-o", OLD).returncode == 0
    return folder


def buf(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("buf")
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def compared(
    workspace: Path, tmp_path: Path, name: str, change: tuple[str, str]
) -> subprocess.CompletedProcess[str]:
    """The outcome of `buf breaking` after a change to one file."""
    changed = tmp_path / "changed"
    shutil.copytree(workspace, changed)
    file = changed / f"protos/inferd/v1/{name}.proto"
    text, count = re.subn(*change, file.read_text(), count=1)
    assert count == 1
    file.write_text(text + NEW_MESSAGE.get(name, ""))
    found = buf(changed, "breaking", "protos", "--against", OLD)
    # The changed protos can be compiled.
    assert not found.stderr
    return found


@pytest.mark.parametrize("kind", BREAKS)
def test_a_change_that_breaks_clients_is_found(workspace, tmp_path, kind):
    name, *change = BREAKS[kind]
    found = compared(workspace, tmp_path, name, (change[0], change[1]))
    assert found.returncode == 100, found
    assert found.stdout


def test_a_message_that_moves_to_another_file_is_found(workspace, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(workspace, changed)
    old, new = (changed / f"protos/inferd/v1/{name}.proto" for name in ("tokenize", "models"))
    message = re.search(r"\nmessage DetokenizeResponse {(.|\n)*?\n}\n", old.read_text())
    assert message is not None
    new.write_text(new.read_text() + message[0])
    text = old.read_text().replace(message[0], "\n")
    old.write_text(
        text.replace('import "inferd/options', 'import "inferd/v1/models.proto";\nimport "inferd/options')
    )
    found = buf(changed, "breaking", "protos", "--against", OLD)
    assert (found.returncode, found.stderr) == (100, "")
    assert "DetokenizeResponse" in found.stdout


@pytest.mark.parametrize("kind", ADDITIONS)
def test_an_addition_passes(workspace, tmp_path, kind):
    name, *change = ADDITIONS[kind]
    found = compared(workspace, tmp_path, name, (change[0], change[1]))
    assert found.returncode == 0, found


def test_the_protos_do_not_break_the_first_clients(workspace):
    baseline = ROOT / "tests/contract/baseline/v1.binpb"
    found = buf(workspace, "breaking", "protos", "--against", str(baseline))
    assert found.returncode == 0, found.stdout

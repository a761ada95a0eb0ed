"""The token path is compiled if there is a C compiler, and behaves the same as plain Python."""

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DECLARED = sorted(
    "inferd." + str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for package in ("services", "rest_bridge")
    for path in (ROOT / package).rglob("*.pxd")
)
#: The tests of the token path.
BEHAVIOUR = (
    "generation/test_streams.py",
    "text/test_detokenizer.py",
    "runtimes/test_chunk_wire.py",
    "generation/test_generation.py",
)


def can_compile() -> bool:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return header.exists() and any(shutil.which(name) for name in ("cc", "gcc"))


@pytest.mark.skipif(not can_compile(), reason="there is no C compiler, or no Python.h")
@pytest.mark.skipif("benchmarks.interpreted" in sys.modules, reason="the tests run interpreted")
@pytest.mark.parametrize("name", DECLARED)
def test_a_declared_module_is_compiled(name):
    file = importlib.import_module(name).__file__
    assert file is not None
    assert Path(file).suffix == ".so"


@pytest.mark.skipif("benchmarks.interpreted" in sys.modules, reason="this runs them")
def test_it_behaves_the_same_as_python():
    tests = [str(ROOT / "tests" / name) for name in BEHAVIOUR]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.interpreted", *tests]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'python'}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout

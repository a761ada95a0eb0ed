"""Compiles the modules of the token path with Cython when inferd is installed.

They are the modules that have a declaration file (.pxd) beside them. They run as plain Python if there is no
C compiler, or no Python.h.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: The folder that holds the package `inferd`, whose links lead to services/ and rest_bridge/.
_PACKAGES = Path("python")
_DIRECTIVES = {
    "language_level": 3,
    # The .pxd files declare the types. Cython would make an annotation refuse subclasses.
    "annotation_typing": False,
}


class TokenPath(BuildHookInterface):
    """Puts the compiled modules beside their sources. If one cannot be compiled, none is."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        root = Path(self.root) / _PACKAGES
        for old in _files(root, ".so"):
            old.unlink()
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(root):
            try:
                built = _compile(Path(folder))
            except _failures() as error:
                print(f"inferd: the token path is not compiled: {error}", file=sys.stderr)
                return
            for path in built:
                shutil.copy(path, root / path.relative_to(Path(folder) / "lib"))
        build_data["artifacts"] += [f"{_PACKAGES}/**/*.so"]
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _failures() -> tuple[type[Exception], ...]:
    from setuptools import errors

    return errors.CCompilerError, errors.ExecError, errors.PlatformError


def _files(root: Path, suffix: str) -> Iterator[Path]:
    """The files below `root` whose names end with `suffix`. Links to folders are followed."""
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            if name.endswith(suffix):
                yield Path(folder, name)


def _compile(folder: Path) -> list[Path]:
    """Compile the modules below the working directory into `folder`/lib. Returns the compiled modules."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    names = sorted(str(path.with_suffix("")) for path in _files(Path(), ".pxd"))
    extensions = [Extension(name.replace("/", "."), [f"{name}.py"]) for name in names]
    modules = cythonize(
        extensions,
        build_dir=str(folder / "c"),
        compiler_directives=_DIRECTIVES,
        quiet=True,
        include_path=["."],
    )
    for module in modules:
        # Debugging symbols take ten times the space of the code.
        module.extra_compile_args = ["-O2", "-g0"]
    command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = str(folder / "lib")
    command.build_temp = str(folder / "o")
    command.parallel = True
    command.ensure_finalized()
    command.run()
    return sorted((folder / "lib").rglob("*.so"))

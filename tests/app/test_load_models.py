"""The source of a model's tokenizer."""

import hashlib
import io
import zipfile

import pytest

from inferd.services.app.load_models import load_models
from inferd.services.config import parse_config
from inferd.services.runtimes.tokenizer_bundle import BundleError, pack, unpack
from inferd.services.text.tokenizer import TokenizerError
from tests.doubles.simulated_scheduler import SimulatedRuntime


def config(address: str, **model: object):
    runtimes = [{"grpc": "127.0.0.1:1"}, {"grpc": address}]
    return parse_config({"models": [{"id": "m", "path": "org/none", "runtimes": runtimes, **model}]}, "tests")


async def close(catalog) -> None:
    for model in catalog:
        for runtime in model.replicas.runtimes:
            await runtime.close()


async def test_a_runtime_hands_out_its_tokenizer(small_model, small_text):
    async with SimulatedRuntime(tokenizer=small_model) as runtime:
        catalog = await load_models(config(runtime.address), lambda: None)
        model = catalog.find("m")
        assert model.text.context_length == small_text.context_length
        assert model.text.tokenizer.encode("Hello é", add_special_tokens=True) == (
            small_text.tokenizer.encode("Hello é", add_special_tokens=True)
        )
        assert model.owned_by == "org"
        await close(catalog)


async def test_a_configured_tokenizer_goes_before(small_model, small_text):
    async with SimulatedRuntime() as runtime:
        catalog = await load_models(config(runtime.address, tokenizer=str(small_model)), lambda: None)
        assert catalog.find("m").text.vocabulary_size == small_text.vocabulary_size
        await close(catalog)


async def test_no_tokenizer_anywhere_is_said():
    # No id that a hub would be asked for.
    async with SimulatedRuntime() as runtime:
        with pytest.raises(TokenizerError, match="No runtime of m handed out"):
            await load_models(config(runtime.address, path="no/such/id"), lambda: None)


def test_a_bundle_comes_back(small_model, tmp_path):
    unpack(*pack(small_model), tmp_path)
    for path in small_model.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def zipped(name: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as bundle:
        bundle.writestr(name, b"x")
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "digest", "fault"),
    [
        (b"abc", "0" * 64, "damaged"),
        (b"abc", None, "no zip"),
        (zipped("../outside"), None, "outside"),
        (zipped("/etc/outside"), None, "outside"),
    ],
)
def test_a_bad_bundle_is_refused(tmp_path, data, digest, fault):
    folder = tmp_path / "inside"
    folder.mkdir()
    with pytest.raises(BundleError, match=fault):
        unpack(data, digest or hashlib.sha256(data).hexdigest(), folder)
    assert not list(folder.iterdir())
    assert list(tmp_path.iterdir()) == [folder]

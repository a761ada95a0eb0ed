"""Images and recordings in messages: they are checked, and fetched from allowed hosts only."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from inferd.services.config import ConfigError, MediaConfig, parse_config
from inferd.services.errors import ServiceError
from inferd.services.prompt.media import MediaReader, image_type
from inferd.services.prompt.media_fetch import MediaFetcher
from inferd.services.runtimes.base import Medium
from inferd.services.text.model_text import ModelText
from inferd.v1 import message_pb2 as pb
from tests.doubles.fake_network import Connections, Names
from tests.support.small_model import write_small_model

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
FILES = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0" + bytes(20),
    "image/webp": b"RIFF\x10\0\0\0WEBPVP8 " + bytes(8),
    "image/gif": b"GIF89a" + bytes(20),
    "image/bmp": b"BM" + bytes(20),
}
WAV = b"RIFF\x10\0\0\0WAVEfmt " + bytes(8)
ALL = frozenset({"image", "audio"})


def data_url(file: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(file).decode()}"


def image(url: str) -> pb.ContentPart:
    return pb.ContentPart(image_url=pb.ImageUrl(url=url))


def sound(file: bytes | str, format: str = "wav") -> pb.ContentPart:
    data = file if isinstance(file, str) else base64.b64encode(file).decode()
    return pb.ContentPart(input_audio=pb.InputAudio(data=data, format=format))


def said(*parts: pb.ContentPart) -> list[pb.Message]:
    """A conversation whose second message has these parts."""
    system = pb.Message(role=pb.ROLE_SYSTEM, content=[pb.ContentPart(text="x")])
    return [system, pb.Message(role=pb.ROLE_USER, content=parts)]


def reader(kinds: frozenset[str] = ALL, **config: object) -> MediaReader:
    return MediaReader(lambda: kinds, MediaFetcher(MediaConfig(**config)))


async def read(reader: MediaReader, *parts: pb.ContentPart) -> tuple[Medium, ...]:
    return await reader.fetch(reader.check(said(*parts)))


async def refused(reader: MediaReader, *parts: pb.ContentPart) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        await read(reader, *parts)
    return raised.value


# What is in a request itself.


@pytest.mark.parametrize("media_type", FILES)
async def test_an_image_in_a_data_url(media_type):
    url = data_url(FILES[media_type], media_type)
    [medium] = await read(reader(), pb.ContentPart(text="see"), image(url))
    assert medium == Medium("image", url, "messages[1].content[1].image_url.url")


async def test_the_type_of_an_image_is_what_its_bytes_say():
    [medium] = await read(reader(), image(data_url(PNG, "image/jpg").replace("data", "DATA")))
    assert medium.url == data_url(PNG)


@pytest.mark.parametrize(
    ("file", "format", "url"),
    [
        (WAV, "wav", data_url(WAV, "audio/wav")),
        (b"ID3\4" + bytes(9), "mp3", data_url(b"ID3\4" + bytes(9), "audio/mpeg")),
        (b"\xff\xfb\x90" + bytes(9), "MP3", data_url(b"\xff\xfb\x90" + bytes(9), "audio/mpeg")),
    ],
)
async def test_a_recording(file, format, url):
    assert await read(reader(), sound(file, format)) == (
        Medium("audio", url, "messages[1].content[0].input_audio.data"),
    )


async def test_media_come_in_the_order_of_the_messages():
    given = [data_url(file, media_type) for media_type, file in FILES.items()]
    found = await read(reader(), image(given[0]), sound(WAV), image(given[1]))
    assert [(medium.kind, medium.url) for medium in found] == [
        ("image", given[0]),
        ("audio", data_url(WAV, "audio/wav")),
        ("image", given[1]),
    ]


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png,abc",
        "data:image/png;base64",
        "data:;base64,AAAA",
        "data:text/html;base64," + base64.b64encode(PNG).decode(),
        "data:image/svg+xml;base64," + base64.b64encode(PNG).decode(),
        data_url(PNG) + "\n",
        data_url(PNG)[:-1],
        data_url(PNG).replace("A", "-"),
        data_url(PNG) + "é",
        data_url(b"<svg>"),
        data_url(b""),
        data_url(WAV),
    ],
)
async def test_what_is_no_image_is_named(url):
    error = await refused(reader(), pb.ContentPart(text="see"), image(url))
    assert (error.field, error.reason) == ("messages[1].content[1].image_url.url", "INVALID_MEDIA")


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (sound(WAV, "flac"), "format"),
        (sound(WAV, "mp3"), "data"),
        (sound(PNG), "data"),
        (sound("not base64"), "data"),
        (sound(""), "data"),
    ],
)
async def test_what_is_no_recording_is_named(part, name):
    error = await refused(reader(), part)
    assert (error.field, error.reason) == (f"messages[1].content[0].input_audio.{name}", "INVALID_MEDIA")


async def test_what_is_too_long_is_refused():
    fits = b"\xff\xd8\xff" + bytes(1021)
    assert await read(reader(max_bytes=1024), image(data_url(fits)))
    for more in (1, 10_000):
        error = await refused(reader(max_bytes=1024), image(data_url(fits + bytes(more))))
        assert (error.field, error.reason) == ("messages[1].content[0].image_url.url", "OUT_OF_RANGE")


async def test_there_may_be_so_many():
    part = image(data_url(PNG))
    assert len(await read(reader(max_parts=2), part, part)) == 2
    error = await refused(reader(max_parts=2), part, part, part)
    assert (error.field, error.reason) == ("messages[1].content[2].image_url", "OUT_OF_RANGE")


@pytest.mark.parametrize(
    ("kinds", "part", "name"),
    [
        (frozenset(), image(data_url(PNG)), "image_url"),
        ({"audio"}, image("https://example.com/x.png"), "image_url"),
        ({"image"}, sound(WAV), "input_audio"),
    ],
)
async def test_a_model_that_takes_none_says_which(kinds, part, name):
    error = await refused(reader(frozenset(kinds)), pb.ContentPart(text="see"), part)
    assert (error.field, error.reason) == (f"messages[1].content[1].{name}", "UNSUPPORTED_CONTENT")


@pytest.mark.parametrize("file", [*FILES.values(), WAV, b"", b"RIFF", b"\x89PN"])
def test_the_types_of_images(file):
    assert image_type(file) == next((name for name, known in FILES.items() if known is file), None)


# What is fetched.

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Site:
    """A server of images: its answers by path. It remembers the requests' heads."""

    answers: dict[str, bytes | Answer]
    port: int = 0
    heads: list[str] = field(default_factory=list)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            answer = self.answers[head.split(" ")[1]]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        writer.close()


def ok(body: bytes, media_type: str = "image/png", status: str = "200 OK", **headers: str) -> bytes:
    given = {"content-type": media_type, "content-length": str(len(body)), **headers}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    return "\r\n".join(lines).encode() + body


@contextlib.asynccontextmanager
async def serving(**answers: bytes | Answer) -> AsyncIterator[Site]:
    site = Site({f"/{name}": answer for name, answer in answers.items()})
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    async with server:
        yield site


def fetching(*hosts: str, **config: object) -> MediaReader:
    """Fetches images from this machine, too."""
    return reader(allowed_hosts=hosts or ("127.0.0.1",), allow_private=True, **config)


async def test_an_image_is_fetched():
    async with serving(a=ok(PNG), b=ok(FILES["image/gif"], "image/x-unknown")) as site:
        first, here, second = image(site.url("/a")), image(data_url(PNG)), image(site.url("/b"))
        assert await read(fetching(), first, here, second) == (
            Medium("image", data_url(PNG), "messages[1].content[0].image_url.url"),
            Medium("image", data_url(PNG), "messages[1].content[1].image_url.url"),
            Medium(
                "image", data_url(FILES["image/gif"], "image/gif"), "messages[1].content[2].image_url.url"
            ),
        )
        head = site.heads[0].lower()
    assert f"host: 127.0.0.1:{site.port}" in head
    assert "accept-encoding: identity" in head


async def test_an_image_that_is_there_twice_is_fetched_once():
    async with serving(a=ok(PNG)) as site:
        found = await read(fetching(), image(site.url("/a")), image(site.url("/a")))
        assert [medium.field for medium in found] == [
            "messages[1].content[0].image_url.url",
            "messages[1].content[1].image_url.url",
        ]
        assert len(site.heads) == 1


async def test_an_image_in_pieces_without_a_length():
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n")
        for byte in PNG:
            writer.write(bytes([byte]))
            await writer.drain()

    async with serving(a=answer) as site:
        assert [medium.url for medium in await read(fetching(), image(site.url("/a")))] == [data_url(PNG)]


async def test_images_of_a_request_are_fetched_together():
    asked = asyncio.Semaphore(0)
    both = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        asked.release()
        await both.wait()
        writer.write(ok(PNG))
        await writer.drain()

    async with serving(a=answer, b=answer) as site:
        fetch = asyncio.create_task(read(fetching(), image(site.url("/a")), image(site.url("/b"))))
        await asked.acquire()
        await asked.acquire()
        both.set()
        assert len(await fetch) == 2


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n")
    while True:
        writer.write(PNG * 64)
        await writer.drain()


async def hanging(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n")
    await writer.drain()
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("answer", "reason", "why"),
    [
        (ok(b"", status="404 Not Found"), "MEDIA_NOT_FETCHED", "status 404"),
        (ok(b"", status="302 Found", location="http://127.0.0.1/"), "MEDIA_NOT_FETCHED", "redirect"),
        (ok(PNG, "text/html"), "MEDIA_NOT_FETCHED", "'text/html'"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + PNG, "MEDIA_NOT_FETCHED", "content-type"),
        (ok(b"<svg>", "image/svg+xml"), "INVALID_MEDIA", "no image"),
        (ok(b""), "INVALID_MEDIA", "no image"),
        (ok(PNG * 50), "MEDIA_NOT_FETCHED", "longer than 1024 bytes"),
        (endless, "MEDIA_NOT_FETCHED", "longer than 1024 bytes"),
        (hanging, "MEDIA_NOT_FETCHED", "timed out after 0.2 s"),
        (b"nonsense\r\n\r\n", "MEDIA_NOT_FETCHED", "no valid HTTP answer"),
        (ok(PNG)[:-1], "MEDIA_NOT_FETCHED", "no valid HTTP answer"),
        (b"", "MEDIA_NOT_FETCHED", "no valid HTTP answer"),
    ],
)
async def test_what_cannot_be_fetched_says_why(answer, reason, why):
    async with serving(a=answer) as site:
        given = fetching(max_bytes=1024, timeout=0.2 if answer is hanging else 10)
        error = await refused(given, image(data_url(PNG)), image(site.url("/a")))
    assert (error.field, error.reason) == ("messages[1].content[1].image_url.url", reason)
    assert why in error.message


async def test_the_first_that_cannot_be_fetched_ends_the_others():
    async with serving(a=hanging, b=ok(b"", status="404 Not Found")) as site:
        error = await refused(fetching(), image(site.url("/a")), image(site.url("/b")))
    assert error.field == "messages[1].content[1].image_url.url"


# From where.


@pytest.mark.parametrize(
    ("allowed", "host", "fetched"),
    [
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com", True),
        ("Example.com", "example.com.", True),
        ("example.com", "www.example.com", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "badexample.com", False),
        ("example.com", "example.com.evil.net", False),
        ("example.com", "evil.net?example.com", False),
    ],
)
async def test_hosts_are_those_of_the_configuration(allowed, host, fetched):
    names = Names(["8.8.8.8"])
    async with serving(a=ok(PNG)) as site:
        connections = Connections(site.port)
        given = reader(allowed_hosts=[allowed])
        part = image(f"http://{host}/a")
        if fetched:
            assert len(await read(given, part)) == 1
            assert connections.made == ["8.8.8.8"]
        else:
            error = await refused(given, part)
            assert "media.allowed_hosts" in error.message
            assert names.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a",
        "file:///etc/passwd",
        "//example.com/a",
        "example.com/a",
        "http://",
        "",
        "http://user@example.com/a",
        "http://example.com:99999/a",
        "javascript:alert(1)",
    ],
)
async def test_what_is_no_url_of_an_image_is_refused(url):
    error = await refused(fetching("example.com"), image(url))
    assert (error.field, error.reason) == ("messages[1].content[0].image_url.url", "MEDIA_NOT_FETCHED")


async def test_by_default_nothing_is_fetched():
    error = await refused(reader(), image("https://example.com/a.png"))
    assert "media.allowed_hosts" in error.message


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.5"], ["169.254.169.254"]])
async def test_an_allowed_host_with_a_private_address_is_not_connected_to(addresses):
    Names(addresses)
    connections = Connections()
    error = await refused(reader(allowed_hosts=["example.com"]), image("http://example.com/a"))
    assert "is not public" in error.message
    assert connections.made == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_private_address_is_refused_at_once(host):
    error = await refused(reader(allowed_hosts=[host]), image(f"http://{host}/a"))
    assert "private" in error.message


async def test_proxies_of_the_environment_are_not_asked(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with serving(a=ok(PNG)) as site:
        assert len(await read(fetching(), image(site.url("/a")))) == 1


@pytest.mark.parametrize(
    "host", ["https://example.com", "example.com:443", "*", "*.", "a..b", "", "ex ample.com"]
)
def test_what_is_no_host_is_an_error_of_the_configuration(host):
    with pytest.raises(ConfigError) as raised:
        parse_config({"models": [{"id": "m", "path": "m"}], "media": {"allowed_hosts": [host]}}, "tests")
    assert "media.allowed_hosts[0]" in str(raised.value)


# Models.


@pytest.mark.parametrize(
    ("config", "modalities"),
    [
        ({}, set()),
        ({"vision_config": {"depth": 2}}, {"image"}),
        ({"vision_config": None}, set()),
        ({"audio_config": {"layers": 2}}, {"audio"}),
        ({"thinker_config": {"vision_config": {"a": 1}, "audio_config": {"a": 1}}}, {"image", "audio"}),
        ({"mm_vision_tower": "openai/clip"}, {"image"}),
    ],
)
def test_what_a_model_takes_is_in_its_configuration(tmp_path, config, modalities):
    folder = write_small_model(tmp_path / "model")
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, **config}))
    assert ModelText.load(folder).modalities == modalities


def test_a_model_of_several_modalities_has_its_text_s_configuration_inside(tmp_path):
    folder = write_small_model(tmp_path / "model")
    text = {"max_position_embeddings": 77, "vocab_size": 300}
    config = {"thinker_config": {"text_config": text, "audio_config": {"a": 1}}}
    (folder / "config.json").write_text(json.dumps(config))
    loaded = ModelText.load(folder)
    assert (loaded.context_length, loaded.vocabulary_size) == (77, 300)


def test_the_template_of_a_processor_is_read_where_the_tokenizer_has_none(tmp_path):
    folder = write_small_model(tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    del tokenizer["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert ModelText.load(folder).template.source == ""
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "hello"}))
    assert ModelText.load(folder).template.source == "hello"

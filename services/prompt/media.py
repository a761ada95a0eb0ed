"""Reads images and recordings from messages, and passes them on as data URLs for a runtime.

Checks them, so that a runtime gets only files of kinds that it knows. Reads no more than the first bytes of a
file.
"""

import asyncio
import binascii
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from inferd.services.errors import ServiceError, invalid
from inferd.services.prompt.media_fetch import MediaFetcher, MediaNotFetched
from inferd.services.runtimes.base import Medium
from inferd.v1 import message_pb2 as pb

#: How many files of one request are fetched at the same time.
_MAX_FETCHES = 4
_DATA_URL = re.compile(r"data:([a-z0-9.+-]+/[a-z0-9.+-]+);base64,", re.IGNORECASE)
_IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")
#: Media types of recordings, by the name of the format in the request.
_AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image that is not fetched yet. `field` is the path of its field in the request."""

    url: str
    field: str


class MediaReader:
    """Reads the media of messages for one model.

    `kinds` returns the kinds of media ("image", "audio") that both the model and its runtimes take at
    present.
    """

    def __init__(self, kinds: Callable[[], frozenset[str]], fetcher: MediaFetcher) -> None:
        self._kinds = kinds
        self._fetcher = fetcher

    def check(self, messages: Sequence[pb.Message]) -> list[Medium | RemoteImage]:
        """The media of messages, in order. Images that are given by a URL are not fetched yet.

        Raises ServiceError INVALID_ARGUMENT that names the part that is not accepted.
        """
        found: list[Medium | RemoteImage] = []
        most = self._fetcher.config.max_parts
        taken = self._kinds()
        for kind, part, field in _media_parts(messages):
            if kind not in taken:
                raise invalid(field, f"{field}: this model takes no {_PLURALS[kind]}", "UNSUPPORTED_CONTENT")
            if len(found) == most:
                raise invalid(
                    field, f"{field}: a request may have {most} images and recordings", "OUT_OF_RANGE"
                )
            found.append(
                self._read_image(part, field) if kind == "image" else self._read_recording(part, field)
            )
        return found

    async def fetch(self, found: Sequence[Medium | RemoteImage]) -> tuple[Medium, ...]:
        """The media, with all remote images fetched. Each URL is fetched once.

        Raises ServiceError INVALID_ARGUMENT that names the part that cannot be fetched, or that is no image.
        """
        if not found:
            return ()
        remote = {image.url: image for image in reversed(found) if isinstance(image, RemoteImage)}
        fetched: dict[str, str] = {}
        slots = asyncio.Semaphore(_MAX_FETCHES)

        async def fetch(image: RemoteImage) -> None:
            async with slots:
                fetched[image.url] = await self._fetch(image)

        try:
            async with asyncio.TaskGroup() as fetches:
                for image in remote.values():
                    fetches.create_task(fetch(image))
        except BaseExceptionGroup as failed:
            # The first failure is raised. The other fetches are cancelled then.
            raise failed.exceptions[0] from None
        return tuple(
            medium if isinstance(medium, Medium) else Medium("image", fetched[medium.url], medium.field)
            for medium in found
        )

    async def _fetch(self, image: RemoteImage) -> str:
        """Fetch an image, and return it as a data URL."""
        try:
            file = await self._fetcher.fetch(image.url)
        except MediaNotFetched as error:
            raise _not_fetched(image.field, error) from None
        media_type = image_type(file)
        if media_type is None:
            message = f"{image.field}: what is there is no image of {', '.join(_IMAGE_TYPES)}"
            raise invalid(image.field, message, "INVALID_MEDIA")
        return f"data:{media_type};base64,{binascii.b2a_base64(file, newline=False).decode()}"

    def _read_image(self, part: pb.ContentPart, field: str) -> Medium | RemoteImage:
        url, field = part.image_url.url, f"{field}.url"
        if url[:5].lower() != "data:":
            try:
                self._fetcher.check(url)
            except MediaNotFetched as error:
                raise _not_fetched(field, error) from None
            return RemoteImage(url, field)
        head = _DATA_URL.match(url)
        if head is None:
            raise invalid(field, f'{field} must be like "data:image/png;base64,…"', "INVALID_MEDIA")
        # image/jpg is a common misspelling.
        given = head[1].lower().replace("image/jpg", "image/jpeg")
        if given not in _IMAGE_TYPES:
            raise invalid(
                field, f"{field} is {head[1]!r}, and must be of {', '.join(_IMAGE_TYPES)}", "INVALID_MEDIA"
            )
        text = url[head.end() :]
        found = image_type(self._decode(text, field))
        if found is None:
            raise invalid(field, f"{field} holds no image of {', '.join(_IMAGE_TYPES)}", "INVALID_MEDIA")
        return Medium("image", f"data:{found};base64,{text}", field)

    def _read_recording(self, part: pb.ContentPart, field: str) -> Medium:
        audio = part.input_audio
        media_type = _AUDIO_TYPES.get(audio.format.lower())
        if media_type is None:
            field = f"{field}.format"
            raise invalid(field, f"{field} must be wav or mp3, not {audio.format!r}", "INVALID_MEDIA")
        field = f"{field}.data"
        if not _is_audio(self._decode(audio.data, field), media_type):
            raise invalid(field, f"{field} holds no recording in {audio.format.lower()}", "INVALID_MEDIA")
        return Medium("audio", f"data:{media_type};base64,{audio.data}", field)

    def _decode(self, text: str, field: str) -> bytes:
        most = self._fetcher.config.max_bytes
        try:
            # A text that is far too long is not decoded at all.
            file = binascii.a2b_base64(text, strict_mode=True) if len(text) <= most * 2 else None
        # Not binascii.Error: a character beyond ASCII raises a plain ValueError.
        except ValueError:
            raise invalid(field, f"{field} is no base64", "INVALID_MEDIA") from None
        if file is None or len(file) > most:
            raise invalid(field, f"{field} is longer than {most} bytes", "OUT_OF_RANGE")
        return file


def refuse_media(messages: Sequence[pb.Message]) -> None:
    """Raise ServiceError INVALID_ARGUMENT if messages have media, which only chat completions accept."""
    for _, _, field in _media_parts(messages):
        raise invalid(
            field,
            f"{field}: only chat completions take images and recordings, as the runtime alone can count them",
            "UNSUPPORTED_CONTENT",
        )


def image_type(file: bytes) -> str | None:
    """The media type of an image, by its first bytes; None: no image of an accepted type."""
    if file.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if file.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if file.startswith(b"RIFF") and file[8:12] == b"WEBP":
        return "image/webp"
    if file.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/bmp" if file.startswith(b"BM") else None


def _is_audio(file: bytes, media_type: str) -> bool:
    if media_type == "audio/wav":
        return file.startswith(b"RIFF") and file[8:12] == b"WAVE"
    # MP3 begins with an ID3 tag, or with the sync bits of the first frame.
    return file.startswith(b"ID3") or (len(file) > 1 and file[0] == 0xFF and file[1] & 0xE0 == 0xE0)


_PLURALS: dict[Literal["image", "audio"], str] = {"image": "images", "audio": "recordings"}


def _media_parts(
    messages: Sequence[pb.Message],
) -> Iterable[tuple[Literal["image", "audio"], pb.ContentPart, str]]:
    for at, message in enumerate(messages[:]):
        for index, part in enumerate(message.content[:]):
            match part.WhichOneof("part"):
                case "image_url":
                    yield "image", part, f"messages[{at}].content[{index}].image_url"
                case "input_audio":
                    yield "audio", part, f"messages[{at}].content[{index}].input_audio"


def _not_fetched(field: str, error: MediaNotFetched) -> ServiceError:
    return invalid(field, f"{field}: {error}", "MEDIA_NOT_FETCHED")

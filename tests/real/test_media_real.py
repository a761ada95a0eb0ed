"""Images on a real SGLang that sees, behind a whole inferd."""

import asyncio
import base64
import contextlib
import io
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from inferd.services.config import parse_config
from tests.real.http_engine import running_http_engine
from tests.real.seeing_model import write_seeing_model
from tests.support.running import running_front

_ENGINE = (
    *("--mm-attention-backend", "sdpa", "--enable-multimodal", "--skip-server-warmup"),
    *("--max-total-tokens", "8192", "--incremental-streaming-output"),
)


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, "PNG")
    return file.getvalue()


def data_url(file: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"


@contextlib.asynccontextmanager
async def serving_image(file: bytes):
    """A web server of one image: its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: {len(file)}\r\n\r\n"
        writer.write(head.encode() + file)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/image.png"


async def test_a_model_sees(smollm2_path: Path, tmp_path: Path) -> None:
    model = tmp_path / "seeing"
    write_seeing_model(model, smollm2_path)
    with running_http_engine(model, tmp_path / "engine.log", *_ENGINE, seconds=400) as engine:
        config = parse_config(
            {
                "models": [{"id": "seeing", "path": str(model), "runtimes": [{"http": engine.url}]}],
                "queue": {"url": f"sqlite:///{tmp_path}/queue.db"},
                "server": {"grpc": "127.0.0.1:0", "rest": "127.0.0.1:0", "grace": 1},
                "media": {"allowed_hosts": ["127.0.0.1"], "allow_private": True},
            },
            "tests",
        )
        async with running_front(config) as (_, port), serving_image(png("red")) as url:
            base = f"http://127.0.0.1:{port}/v1"
            async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as client:
                await look(client, url)


async def look(client: openai.AsyncOpenAI, url: str) -> None:
    async def ask(*urls: str, text: str = "What is it?", **more: Any) -> Any:
        parts: list[Any] = [{"type": "image_url", "image_url": {"url": at}} for at in urls]
        return await client.chat.completions.create(
            model="seeing",
            messages=[{"role": "user", "content": [*parts, {"type": "text", "text": text}]}],
            max_tokens=8,
            temperature=0,
            extra_body={"return_token_ids": True, "ignore_eos": True},
            **more,
        )

    async def said(*urls: str) -> list[int]:
        return (await ask(*urls)).choices[0].token_ids

    blind, red, blue = await said(), await said(data_url(png("red"))), await said(data_url(png("blue")))
    assert len({tuple(blind), tuple(red), tuple(blue)}) == 3
    assert await said(data_url(png("red"))) == red
    assert await said(url) == red

    # The image's tokens are the runtime's to count.
    one, two = await ask(url), await ask(url, data_url(png("blue")))
    assert (await ask()).usage.prompt_tokens + 3 < one.usage.prompt_tokens < two.usage.prompt_tokens
    several = await ask(url, n=2)
    assert [choice.token_ids for choice in several.choices] == [red, red]
    assert several.usage.prompt_tokens == one.usage.prompt_tokens

    with pytest.raises(openai.BadRequestError) as refused:
        await ask(data_url(png("red")[:60]))
    assert refused.value.status_code == 400
    with pytest.raises(openai.BadRequestError) as refused:
        await ask(url, text="What is <|image_pad|>?")
    assert refused.value.code == "placeholder_in_text"
    with pytest.raises(openai.BadRequestError) as refused:
        await ask("http://example.com/image.png")
    assert "media.allowed_hosts" in refused.value.message
    assert await said(url) == red

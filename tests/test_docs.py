"""The documentation names only links, paths, commands and configuration keys that exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from pydantic import BaseModel

from inferd.services.app.cli import app
from inferd.services.config import (
    AdapterConfig,
    MediaConfig,
    ModelConfig,
    QueueConfig,
    RuntimeConfig,
    ServerConfig,
    WebhookConfig,
    default_models,
    load_config,
    parse_config,
)

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FOLDERS = "|".join(
    re.escape(path.name) for path in ROOT.iterdir() if path.is_dir() and path.name not in (".venv", ".cache")
)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SECTIONS: dict[str, type[BaseModel]] = {
    "models": ModelConfig,
    "models[].runtimes": RuntimeConfig,
    "models[].adapters": AdapterConfig,
    "server": ServerConfig,
    "media": MediaConfig,
    "queue": QueueConfig,
    "queue.webhooks": WebhookConfig,
}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a page: the language, and the text."""
    for found in re.finditer(r"^ *```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```\w*\n.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def inline_code(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(text))


def commands(text: str) -> Iterator[str]:
    """What a reader may type: inline code, lines after a prompt, and blocks without a language."""
    yield from inline_code(text)
    for language, block in blocks(text):
        for line in block.splitlines():
            if language == "console":
                if line.lstrip().startswith("$ "):
                    yield line.lstrip().removeprefix("$ ")
            elif not language:
                yield line


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert linked.is_relative_to(ROOT), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links to {target}"


@every_page
def test_paths_exist(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("it names what is gone, too")
    for code in inline_code(page.read_text()):
        if re.fullmatch(rf"(?:{FOLDERS})/[\w./-]*", code):
            assert (ROOT / code).exists(), f"{page.name} names {code}"


@every_page
def test_make_targets_exist(page):
    for command in commands(page.read_text()):
        for target in re.findall(r"\bmake ([a-z][a-z-]*)", command):
            assert target in TARGETS, f"{page.name} names make {target}"


@every_page
def test_commands_of_inferd_exist(page):
    known = typer.main.get_command(app).commands
    for command in commands(page.read_text()):
        for name, rest in re.findall(r"(?:^|[\s/])inferd ([a-z]+)([^\n]*)", command):
            assert name in known, f"{page.name} names inferd {name}"
            if name == "queue":
                named = re.match(r"(?: *\|? *[a-z]+\b)*", rest)
                for word in re.findall(r"[a-z]+", named[0] if named else ""):
                    assert word in known["queue"].commands, f"{page.name} names inferd queue {word}"


def test_the_readme_fits_two_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


@pytest.mark.parametrize("section", SECTIONS)
def test_each_key_of_the_configuration_is_documented(section):
    text = (ROOT / "docs" / "configuration.md").read_text()
    part = re.search(rf"^##+ {re.escape(section)}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert part is not None
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in part[1].splitlines()
        if line.startswith("| `")
    ]
    fields = SECTIONS[section].model_fields
    assert [row[0].strip("`") for row in rows] == list(fields)
    for row in rows:
        default = fields[row[0].strip("`")].default
        if isinstance(default, bool | int | float | str) and len(row) > 2:
            assert yaml.safe_load(row[1].strip("`")) == default, row[0]


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid(example):
    load_config(example)


def test_the_example_of_all_keys_is_the_default():
    assert load_config(ROOT / "examples" / "config.yaml") == parse_config(
        {"models": [default_models(None)]}, "default"
    )

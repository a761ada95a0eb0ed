"""Runs the programs of tests/interop, which use other people's clients, against a running inferd.

They have an environment of their own, which `scripts/interop` makes.
"""

import asyncio
import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parents[1] / "interop"
_SCRIPT = Path(__file__).parents[2] / "scripts" / "interop"
_SECONDS = 240


@functools.cache
def environment() -> Path:
    """The folder of the environment, which is made first if it is missing."""
    found = subprocess.run([_SCRIPT], stdout=subprocess.PIPE, text=True, check=True)
    return Path(found.stdout.strip())


async def run_program(name: str, *args: str, **variables: str) -> dict[str, Any]:
    """What the program prints: its last line, an object in JSON. A name that ends with .mjs is Node's.

    `variables` are added to its environment. It must end well, and in time.
    """
    program = PROGRAMS / name
    bin = environment() / "bin"
    # Node's from standard input, since it looks for packages beside the program, else in the working folder.
    command = (
        [bin / "python", program] if program.suffix == ".py" else [bin / "node", "--input-type=module", "-"]
    )
    process = await asyncio.create_subprocess_exec(
        *command,
        *args,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=environment(),
        env={**os.environ, "NO_PROXY": "127.0.0.1", "LANGSMITH_TRACING": "false", **variables},
    )
    try:
        printed, log = await asyncio.wait_for(process.communicate(program.read_bytes()), _SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{name} ended with {process.returncode}:\n{log.decode()[-6000:]}"
    document = json.loads(printed.splitlines()[-1])
    assert isinstance(document, dict)
    return document

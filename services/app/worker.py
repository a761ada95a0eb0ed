"""The main module of a worker: one of several server processes that share the ports, started by `serve`.

It reads its configuration, in JSON, from the first line of standard input. It stops when standard input ends,
so it also stops when the process that started it is killed.
"""

import asyncio
import logging
import os
import signal
import sys

import uvloop

from inferd.services.app.server_process import run_server_process
from inferd.services.config import Config
from inferd.services.text.tokenizer import TokenizerError


async def _run(config: Config) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin.fileno(), stop.set)
    await run_server_process(config, stop, shared_ports=True, on_serving=_print_health)


def _print_health(serving: bool) -> None:
    print("serving" if serving else "not serving", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=os.environ.get("INFERD_LOG", "WARNING").upper())
    try:
        uvloop.run(_run(Config.model_validate_json(sys.stdin.readline())))
    except (OSError, TokenizerError) as error:
        sys.exit(f"inferd worker: {error}")

"""One of several processes that share the ports; `inferd serve` starts it.

Reads its configuration from a line of standard input, and stops at that input's end: so also where the
process that started it is killed.
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
    await run_server_process(config, stop, shared_ports=True, on_serving=_tell)


def _tell(serving: bool) -> None:
    print("serving" if serving else "not serving", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=os.environ.get("INFERD_LOG", "WARNING").upper())
    try:
        uvloop.run(_run(Config.model_validate_json(sys.stdin.readline())))
    except (OSError, TokenizerError) as error:
        sys.exit(f"inferd worker: {error}")

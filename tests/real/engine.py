"""A process that runs one LocalSGLang, as inferd does: `python engine.py MODEL LOGS [SGLANG ARGUMENT...]`.

Writes a JSON line {"phase", "detail", "address"} for each state, and ends the engine when stdin closes. Apart
from the tests' own process, because that can be killed here, and because grpc.aio is not to be used from
two event loops at once.
"""

import asyncio
import json
import sys
from pathlib import Path

from inferd.services.launch.local_sglang import LaunchState, LocalSGLang


async def main(model: Path, logs: Path, args: list[str]) -> None:
    def tell(state: LaunchState) -> None:
        line = {"phase": state.phase, "detail": state.detail, "address": engine.address}
        print(json.dumps(line), flush=True)

    engine = LocalSGLang(model, args, on_state=tell, logs=logs)
    engine.start()
    try:
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await engine.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))

"""Work that is done again and again, whatever happens: an outage is waited out, and told of once."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from inferd.services.errors import ServiceError

log = logging.getLogger("inferd.queue")


async def repeat(
    name: str,
    step: Callable[[], Awaitable[None]],
    seconds: float = 0.0,
    on_result: Callable[[bool], None] = lambda _: None,
) -> None:
    """Call `step` until cancelled, `seconds` between calls, longer after errors; `on_result` is told how it
    went. Others do the same elsewhere: the times are jittered."""
    failures = 0
    while True:
        try:
            await step()
        except ServiceError as error:
            if not failures:
                log.warning("%s: %s", name, error)
            failures += 1
        except Exception:
            if not failures:
                log.exception("%s failed", name)
            failures += 1
        else:
            if failures:
                log.warning("%s: works again", name)
            failures = 0
        on_result(failures == 0)
        wait = seconds if not failures else max(seconds, min(2.0, 0.1 * 2.0 ** min(failures, 10)))
        await asyncio.sleep(wait * random.uniform(0.8, 1.2))

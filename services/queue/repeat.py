"""Repeats a step for as long as the process lives, through outages of the database.

An outage is logged once when it begins, and once when it is over.
"""

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
    """Call `step` again and again until cancelled, with `seconds` between the calls, or up to 2 s more after
    errors.

    `on_result` is called after each step with whether it succeeded. The times vary by 20 %, so that processes
    that share a database do not all use it at once. `name` stands for the step in the log.
    """
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

"""Shared by the Python programs of this folder. Each topic is a function; all results are printed as JSON.

Judges nothing: the tests do.
"""

import json
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def run(*topics: Callable[[str], Any], at_once: int = 1) -> None:
    """Call each with the server's URL, the program's argument; of one that raises, print the traceback."""
    with ThreadPoolExecutor(at_once) as pool:
        seen = pool.map(_call, topics)
        print(json.dumps({topic.__name__: told for topic, told in zip(topics, seen, strict=True)}))


def _call(topic: Callable[[str], Any]) -> Any:
    try:
        return topic(sys.argv[1])
    except Exception:
        return {"raised": traceback.format_exc()}

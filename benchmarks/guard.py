"""The regression guard: what a token and a request execute, counted, beside the committed baseline.

    python -m benchmarks.guard [--accept] [--only PART_OF_A_NAME]

Counts Python instructions and calls (those of C functions too), which are the same in each run, however busy
the machine is; it times nothing, and cannot see what a C function costs. What is compiled is counted as the
Python that it is made of. Exits with 1 where a count rose.
"""

import argparse
import gc
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import (
    interpreted,  # noqa: F401  (before inferd)
    paths,
)
from benchmarks.paths import Calls, Front

BASELINE = Path(__file__).with_name("guard_baseline.json")
#: A count may be that much above the baseline's.
ALLOWED = 0.03
#: Streams at once: alone, and where a step of the engine brings many tokens.
STREAMS = (1, 32)
#: Rounds before those that are counted: caches are filled, and the connection has been made.
_WARM_UP = 3
_ROUNDS = 2
#: What counts is not counted.
_OURS = (paths.__file__, __file__)

Counts = dict[str, float]


class Instructions:
    """Counts executed bytecode instructions."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._count = 0

    def start(self) -> None:
        self._count = 0
        sys.settrace(self._enter)

    def stop(self, part: str) -> None:
        sys.settrace(None)
        self.counts[part] = self.counts.get(part, 0) + self._count

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        if frame.f_code.co_filename in _OURS:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._execute

    def _execute(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        if event == "opcode":
            self._count += 1
        return self._execute


class FunctionCalls:
    """Counts calls of functions, in Python and in C."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._count = 0

    def start(self) -> None:
        self._count = 0
        sys.setprofile(self._profile)

    def stop(self, part: str) -> None:
        sys.setprofile(None)
        self.counts[part] = self.counts.get(part, 0) + self._count

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_call") and frame.f_code.co_filename not in _OURS:
            self._count += 1


async def count(calls: Calls) -> Counts:
    """Instructions and calls, of a token and of a request without its tokens."""
    found: Counts = {}
    for name, meter in (("instructions", Instructions()), ("calls", FunctionCalls())):
        for _ in range(_ROUNDS):
            gc.collect()
            await calls.round(meter, turns=8)
        tokens = calls.tokens * _ROUNDS
        token = meter.counts.get("token", 0) / tokens if tokens else 0.0
        requests = meter.counts["request"] - token * calls.other_tokens * _ROUNDS
        if tokens:
            found[f"{name} a token"] = round(token, 1)
        found[f"{name} a request"] = round(requests / calls.streams / _ROUNDS, 1)
    return found


async def count_all(front: Front, only: str) -> dict[str, Counts]:
    """By path and number of streams."""
    counts = {}
    for kind in front.paths():
        if only not in kind.name:
            continue
        for streams in STREAMS:
            calls = front.calls(kind, streams)
            for _ in range(_WARM_UP):
                await calls.round(Nothing(), turns=8)
            counts[f"{kind.name}, {streams}"] = await count(calls)
    return counts


class Nothing:
    """A meter that is none."""

    def start(self) -> None: ...
    def stop(self, part: str) -> None: ...


def compare(counts: Mapping[str, Counts], baseline: Mapping[str, Counts]) -> bool:
    """Print the table. Whether nothing rose."""
    good = True
    print(f"{'path, streams':32} {'':26} {'baseline':>10} {'now':>10}")
    for path, found in counts.items():
        known = baseline.get(path, {})
        for what, value in found.items():
            before = known.get(what)
            change, verdict = "", ""
            if before is None:
                verdict = "  new"
            else:
                change = f"{(value - before) / before * 100:+7.1f} %"
                if value > before * (1 + ALLOWED):
                    verdict, good = "  ROSE", False
                elif value < before * (1 - ALLOWED):
                    verdict = "  fell"
            shown = "-" if before is None else before
            print(f"{path:32} {what:26} {shown:>10} {value:>10} {change}{verdict}")
    return good


def main() -> int:
    """Count, and compare or accept."""
    parser = argparse.ArgumentParser(prog="benchmarks.guard", description=__doc__)
    parser.add_argument("--accept", action="store_true", help="make what is counted now the baseline")
    parser.add_argument("--only", default="", help="only paths with this in their name")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets is part of what is executed.
        arguments = [sys.executable, "-m", "benchmarks.guard", *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, "PYTHONHASHSEED": "0"})
    counts: dict[str, Counts] = {}

    async def all_counts(front: Front) -> None:
        gc.collect()
        gc.disable()
        counts.update(await count_all(front, options.only))

    paths.run(all_counts)
    baseline: dict[str, Counts] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    good = compare(counts, baseline)
    if options.accept:
        BASELINE.write_text(json.dumps(baseline | counts, indent=1) + "\n")
        print(f"written to {BASELINE.name}")
        return 0
    if not good:
        print(
            f"A count rose by more than {ALLOWED:.0%}. Where that is right:"
            " `python -m benchmarks.guard --accept`, and commit guard_baseline.json with the change."
        )
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())

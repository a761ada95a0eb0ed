"""Measures inferd beside its peers, on one simulated runtime. This is the command line of the suite."""

import argparse
import fcntl
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.suite.fronts import FRONTS
from benchmarks.suite.run import Options, run

_FOLDER = Path(__file__).parents[2] / ".cache" / "bench"
_PARTS = ("table", "growth", "memory", "real")


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Parse the command line and run the suite. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.suite", description=__doc__)
    parser.add_argument("--fronts", help=f"of {','.join(FRONTS)}; default: all, quick: inferd,smg,dynamo")
    parser.add_argument("--repeats", type=int, help="default: 3, quick: 2")
    parser.add_argument(
        "--quick", action="store_true", help="the main cells of the fast fronts, in 4 minutes"
    )
    parser.add_argument("--cells", default="", help="only cells with one of these, by ;, in their name")
    parser.add_argument(
        "--out", type=Path, help="folder of results and logs; default: below .cache/bench/results"
    )
    parser.add_argument("--parts", help=f"of {','.join(_PARTS)}; default: all, quick: table,memory")
    given = parser.parse_args()
    names = (
        given.fronts.split(",")
        if given.fronts
        else ["inferd", "smg", "dynamo"]
        if given.quick
        else list(FRONTS)
    )
    if unknown := [name for name in names if name not in FRONTS]:
        parser.error(f"no such front: {', '.join(unknown)}")
    out = given.out or _FOLDER / "results" / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    out.mkdir(parents=True, exist_ok=True)
    options = Options(
        fronts=names,
        repeats=given.repeats or (2 if given.quick else 3),
        quick=given.quick,
        parts=given.parts.split(",") if given.parts else ["table", "memory"] if given.quick else list(_PARTS),
        only=[part for part in given.cells.split(";") if part],
        folder=_FOLDER,
        out=out.resolve(),
    )
    lock = (_FOLDER / "lock").open("w")
    try:
        # Two runs at once would measure each other.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        parser.error("another run is measuring on this machine")
    signal.signal(signal.SIGTERM, _stop)
    try:
        return run(options)
    except KeyboardInterrupt:
        print("\nstopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())

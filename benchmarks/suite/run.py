"""One run of the suite: starts the fronts, measures them in turn, and writes the results."""

import json
import platform
import subprocess
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.suite import growth
from benchmarks.suite.cells import PACE, Cell, main_cells
from benchmarks.suite.end_to_end import Pair, end_to_end
from benchmarks.suite.environments import NotInstalled, python_of
from benchmarks.suite.front import Context, Front
from benchmarks.suite.fronts import FRONTS
from benchmarks.suite.growth import Point
from benchmarks.suite.measure import Bench, Figures
from benchmarks.suite.model import tokenizer_folder
from benchmarks.suite.own import start_load, start_runtime
from benchmarks.suite.processes import NotStarted
from benchmarks.suite.report import write_report
from benchmarks.suite.usage import cores, cpu_seconds, memory_mb

#: Fronts whose growth is measured.
_GROWING = ("inferd", "smg", "dynamo")
_IDLE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line. If `only` is not empty, a cell's name contains one of its texts."""

    fronts: list[str]
    repeats: int
    quick: bool
    only: list[str]
    parts: list[str]
    folder: Path
    out: Path

    @property
    def cells(self) -> list[Cell]:
        """The cells of the main table."""
        cells = main_cells(self.quick)
        return [cell for cell in cells if not self.only or any(part in cell.name for part in self.only)]


@dataclass
class Results:
    """All results of a run. They are written as JSON."""

    date: str
    machine: str
    repeats: int
    figures: list[Figures] = field(default_factory=list)
    direct: list[Figures] = field(default_factory=list)
    growth: list[Point] = field(default_factory=list)
    end_to_end: list[Pair] = field(default_factory=list)
    #: By cell: the unit that its cost is divided by, "token" or "request".
    units: dict[str, str] = field(default_factory=dict)
    #: By front: resident memory in MB, at the start, at the end, and at its highest.
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    #: By front: cores that it uses while it is idle.
    idle: dict[str, float] = field(default_factory=dict)
    #: By front: whether it has an engine of its own.
    own_engine: dict[str, bool] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    #: What could not be measured, and why.
    absent: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def run(options: Options) -> int:
    """Measure, print the tables, and write them. Returns 1 if inferd did not start or failed requests."""
    begun = time.monotonic()
    machine = f"{platform.machine()}, {cores()} cores, Linux {platform.release()}"
    results = Results(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), machine, options.repeats)
    try:
        _measure(options, results)
    finally:
        # An interrupted run writes what it has measured so far.
        results.seconds = time.monotonic() - begun
        text = _write(options, results)
    print(text)
    print(f"written to {options.out}")
    failed = any(figures.failed for figures in results.figures if figures.front == "inferd")
    return int(failed or "inferd" in results.absent)


def _measure(options: Options, results: Results) -> None:
    with ExitStack() as stack:
        bench = _start(options, stack)
        if {"table", "growth", "memory"} & set(options.parts):
            with ExitStack() as front_stack:
                bench.context.stack = front_stack
                fronts = _start_fronts(options, bench.context, results)
                if "table" in options.parts:
                    _main_table(options, bench, fronts, results)
                _growth_and_memory(options, bench, fronts, results)
                for front in fronts:
                    memory = results.memory[front.name]
                    memory["end"] = memory_mb(front.pids())
                    memory["highest"] = memory_mb(front.pids(), "VmHWM")
        bench.context.stack = stack
        if "growth" in options.parts:
            _say("growth with models and replicas")
            for name, curve in (("models", growth.by_models), ("replicas", growth.by_replicas)):
                _try(
                    f"growth with {name}",
                    results,
                    lambda curve=curve: results.growth.extend(curve(bench, 3.0)),
                )
        if "real" in options.parts:
            _try(
                "end to end",
                results,
                lambda: results.end_to_end.extend(end_to_end(bench, options.repeats, 8.0, _say)),
            )


def _start(options: Options, stack: ExitStack) -> Bench:
    model = tokenizer_folder(options.folder / "model")
    runtime, port = start_runtime(stack, model, options.out / "runtime.log")
    rates = {cell.asked.rate for cell in options.cells if not cell.asked.grpc}
    if "growth" in options.parts:
        rates |= {*PACE.values(), 100.0}
    context = Context(options.folder, model, options.out, stack, runtime, port, tuple(sorted(rates)))
    return Bench(context, start_load(stack, options.out / "load.log"))


def _start_fronts(options: Options, context: Context, results: Results) -> list[Front]:
    fronts: list[Front] = []
    for name in options.fronts:
        _say(f"starting {name}")
        _try(name, results, lambda name=name: fronts.append(FRONTS[name](context)))
    time.sleep(2)
    for front in fronts:
        results.titles[front.name] = front.title
        results.notes[front.name] = front.note
        results.own_engine[front.name] = front.engine is not None and front.name not in ("bridge", "envoy")
        results.memory[front.name] = {"start": memory_mb(front.pids())}
    before = [cpu_seconds(front.pids()) for front in fronts]
    time.sleep(_IDLE_SECONDS)
    for front, cpu in zip(fronts, before, strict=True):
        results.idle[front.name] = (cpu_seconds(front.pids()) - cpu) / _IDLE_SECONDS
    return fronts


def _main_table(options: Options, bench: Bench, fronts: list[Front], results: Results) -> None:
    for repeat in range(options.repeats):
        for cell in options.cells:
            results.units[cell.name] = cell.unit
            if cell.asked.rate and cell.asked.streamed and not (cell.asked.grpc or cell.asked.chat):
                results.direct.append(bench.direct(cell, repeat))
            for front in fronts:
                if not front.takes(cell.asked) or (front.slow and not cell.for_slow):
                    continue
                figures = bench.measure(front, cell, repeat)
                results.figures.append(figures)
                _say(f"{repeat + 1}/{options.repeats} {figures.line(cell.unit)}")
                for what, count in figures.errors.items():
                    _say(f"    {count} x {what}")


def _growth_and_memory(options: Options, bench: Bench, fronts: list[Front], results: Results) -> None:
    if "growth" in options.parts:
        for front in fronts:
            if front.name in _GROWING:
                _say(f"growth of {front.name}")
                results.growth += growth.by_streams(bench, front, 4.0)
                results.growth += growth.by_prompt(bench, front, 3.0)
    if "memory" in options.parts:
        for front in fronts:
            if front.name == "inferd":
                _say("memory over many requests")
                requests = 5_000 if options.quick else 100_000
                results.growth += growth.by_past_requests(bench, front, requests)


def _try(what: str, results: Results, action: Any) -> None:
    try:
        action()
    except (NotInstalled, NotStarted, OSError, subprocess.SubprocessError) as error:
        results.absent[what] = str(error)
        _say(f"{what}: {error}")


def _write(options: Options, results: Results) -> str:
    file = options.out / "results.json"
    document = asdict(results)
    file.write_text(json.dumps(document, indent=1))
    if results.figures or results.growth:
        try:
            python = python_of("plots", options.folder)
            command = [str(python), str(Path(__file__).with_name("plots.py")), str(file), str(options.out)]
            subprocess.run(command, check=True, timeout=120, capture_output=True, text=True)
        except (NotInstalled, subprocess.SubprocessError) as error:
            document["absent"]["plots"] = f"{error} {getattr(error, 'stderr', '') or ''}"
    return write_report(document, options.out)


def _say(text: str) -> None:
    print(text, flush=True)

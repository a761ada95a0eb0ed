"""Writes the tables of a run in Markdown. All figures are those of that run."""

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.suite.cells import PACE

#: The figures of one front in one cell, one element for each repeat.
_Figures = list[dict[str, Any]]


def write_report(results: dict[str, Any], out: Path) -> str:
    """Write `table.md`, and return its text. `results` is a `run.Results` as JSON has it."""
    cells = _by_cell(results["figures"])
    parts = [
        _heading(results),
        _cost(results, cells, "token", "CPU of the front per streamed token, µs", 1.0),
        _cost(results, cells, "request", "CPU of the front per whole request, ms", 1e-3),
        _ratios(results, cells),
        _transcoding(cells),
        _first_token(results, cells),
        _fronts(results, cells),
        _bottlenecks(cells),
        _growth(results["growth"]),
        _end_to_end(results["end_to_end"]),
        _notes(results),
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    (out / "table.md").write_text(text)
    return text


def _by_cell(figures: _Figures) -> dict[str, dict[str, _Figures]]:
    cells: dict[str, dict[str, _Figures]] = {}
    for one in figures:
        cells.setdefault(one["cell"], {}).setdefault(one["front"], []).append(one)
    return cells


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _spread(values: list[float], form: Callable[[float], str]) -> str:
    if not values:
        return "-"
    middle = form(median(values))
    return middle if len(values) == 1 else f"{middle} ({form(min(values))} to {form(max(values))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _good(figures: _Figures) -> _Figures:
    return [one for one in figures if one["cpu_us"] > 0]


def _heading(results: dict[str, Any]) -> str:
    return (
        f"# Benchmark of {results['date']}\n\n{results['machine']}; {results['repeats']} repeats, the fronts"
        f" in turn; {results['seconds'] / 60:.0f} minutes. Medians, with the lowest and the highest in"
        " brackets. Streams are of 100 tokens, whole answers of 10, prompts of about 20 unless a cell says"
        " more. Streams are paced: each gets "
        + ", ".join(f"{rate:g} tokens a second at {streams}" for streams, rate in PACE.items())
        + "; saturated ones are not."
    )


def _cost(
    results: dict[str, Any], cells: dict[str, dict[str, _Figures]], unit: str, title: str, scale: float
) -> str:
    names = [cell for cell in cells if results["units"][cell] == unit]
    if not names:
        return ""
    rows = []
    for front, name in results["titles"].items():
        values = [[one["cpu_us"] * scale for one in _good(cells[cell].get(front, []))] for cell in names]
        rows.append([name, *(_spread(value, _number) for value in values)])
    return f"## {title}\n\n" + _table(["front", *names], rows)


def _ratios(results: dict[str, Any], cells: dict[str, dict[str, _Figures]]) -> str:
    peers = [front for front in results["titles"] if front not in ("inferd", "bridge", "envoy")]
    if not peers or "inferd" not in results["titles"]:
        return ""
    rows = []
    for cell, fronts in cells.items():
        ours = {one["repeat"]: one["cpu_us"] for one in _good(fronts.get("inferd", []))}
        # gRPC has no peer, so its cost is compared with the cost of the peers' REST.
        rest = cells.get(cell.replace("gRPC", "REST"), {}) if cell.startswith("gRPC") else fronts
        others = {front: rest.get(front, []) for front in peers}
        row = [cell]
        for front in peers:
            row.append(_spread(_divided(ours, _good(others[front])), lambda value: f"{value:.2f}"))
        own = rest.get("inferd", []) if rest is not fronts else []
        row.append(_spread(_divided(ours, _good(own)), lambda value: f"{value:.2f}"))
        rows.append(row)
    head = ["cell", *(f"inferd / {results['titles'][front]}" for front in peers), "gRPC / REST of inferd"]
    title = "## Ratios of that CPU, inferd to each peer, repeat by repeat\n\n"
    return title + _table(head, rows)


def _transcoding(cells: dict[str, dict[str, _Figures]]) -> str:
    rows = []
    for cell, fronts in cells.items():
        ours = {one["repeat"]: one["cpu_us"] for one in _good(fronts.get("bridge", []))}
        if ratios := _divided(ours, _good(fronts.get("envoy", []))):
            rows.append([cell, _spread(ratios, lambda value: f"{value:.2f}")])
    title = "## The transcoding alone: ratio of `inferd bridge` to Envoy\n\n"
    return title + _table(["cell", "ratio"], rows) if rows else ""


def _divided(ours: dict[int, float], theirs: _Figures) -> list[float]:
    return [ours[one["repeat"]] / one["cpu_us"] for one in theirs if one["repeat"] in ours]


def _first_token(results: dict[str, Any], cells: dict[str, dict[str, _Figures]]) -> str:
    direct = _by_cell(results["direct"])
    names = [cell for cell in cells if " stream, " in cell and cell.replace("gRPC", "REST") in direct]
    if not names or not direct:
        return ""
    rows = []
    for front, name in results["titles"].items():
        row = [name]
        for cell in names:
            base = {
                one["repeat"]: one for one in direct.get(cell.replace("gRPC", "REST"), {}).get("runtime", [])
            }
            found = [one for one in cells[cell].get(front, []) if one["repeat"] in base and one["ttft_p99"]]
            shown = [
                _spread([one[key] - base[one["repeat"]][key] for one in found], lambda value: f"{value:.2f}")
                for key in ("ttft_p50", "ttft_p99")
            ]
            own = results["own_engine"].get(front)
            row.append(("own engine: " if own and found else "") + " / ".join(shown) if found else "-")
        rows.append(row)
    alone = ["the runtime alone (not subtracted)"]
    for cell in names:
        figures = direct.get(cell.replace("gRPC", "REST"), {}).get("runtime", [])
        alone.append(
            " / ".join(_spread([one[key] for one in figures], _number) for key in ("ttft_p50", "ttft_p99"))
        )
    title = "## Added time to the first token, ms: p50 / p99, less those of the runtime asked directly\n\n"
    return title + _table(["front", *names], [*rows, alone])


def _fronts(results: dict[str, Any], cells: dict[str, dict[str, _Figures]]) -> str:
    if not results["titles"]:
        return ""
    saturated = [cell for cell in cells if "saturated" in cell]
    rows = []
    for front, name in results["titles"].items():
        memory = results["memory"].get(front, {})
        failed = sum(one["failed"] for fronts in cells.values() for one in fronts.get(front, []))
        row = [name]
        for cell in saturated:
            figures = cells[cell].get(front, [])
            rate = _spread([one["tokens_per_second"] for one in figures], lambda value: f"{value:,.0f}")
            cores = _spread([one["share_front"] for one in figures], lambda value: f"{value:.2f}")
            row.append(f"{rate}, {cores} cores" if figures else "-")
        row += [f"{memory.get(key, 0):.0f}" for key in ("start", "end", "highest")]
        rows.append([*row, f"{results['idle'].get(front, 0) * 100:.1f}", str(failed)])
    head = ["front", *(f"tokens/s, {cell}" for cell in saturated)]
    head += ["RSS at start, MB", "at the end", "highest", "% of a core when idle", "failed requests"]
    return "## Throughput, memory, errors\n\n" + _table(head, rows)


def _bottlenecks(cells: dict[str, dict[str, _Figures]]) -> str:
    if not cells:
        return ""
    rows = []
    for cell, fronts in cells.items():
        for front, figures in fronts.items():
            shares = [
                f"{max(one[key] for one in figures):.2f}"
                for key in ("share_front", "share_runtime", "share_load", "share_others")
            ]
            events = _spread([one["tokens_per_event"] for one in figures], lambda value: f"{value:.2f}")
            rows.append([cell, front, *shares, events if "unary" not in cell else "-"])
    head = [
        "cell",
        "front",
        "front",
        "runtime (or what is behind it)",
        "load generator",
        "anything else",
        "tokens per event",
    ]
    title = "## Who was busy: cores, the highest of the repeats\n\n"
    return title + _table(head, rows)


def _growth(points: list[dict[str, Any]]) -> str:
    parts = []
    for curve in dict.fromkeys(point["curve"] for point in points):
        rows = [
            [
                point["front"],
                f"{point['x']:,}",
                _number(point["cpu_us"]) if point["cpu_us"] else "-",
                f"{point['tokens_per_event']:.2f}" if curve == "streams" else "-",
                f"{point['rss_mb']:.0f}" if point["rss_mb"] else "-",
                str(point["failed"]),
            ]
            for point in points
            if point["curve"] == curve
        ]
        unit = "µs a token" if curve == "streams" else "µs a request"
        parts.append(
            f"## Growth with {curve}\n\n"
            + _table(["front", curve, unit, "tokens per event", "RSS, MB", "failed"], rows)
        )
    return "\n\n".join(parts)


def _end_to_end(pairs: list[dict[str, Any]]) -> str:
    rows = []
    for model, way in dict.fromkeys((pair["model"], pair["way"]) for pair in pairs):
        alike = [pair for pair in pairs if (pair["model"], pair["way"]) == (model, way)]
        ratios = [pair["through"] / pair["direct"] for pair in alike if pair["direct"]]
        rows.append(
            [
                model,
                way,
                str(alike[0]["streams"]),
                _spread([pair["through"] for pair in alike], _number),
                _spread([pair["direct"] for pair in alike], _number),
                _spread(ratios, lambda value: f"{value:.3f}"),
                str(sum(pair["failed"] for pair in alike)),
            ]
        )
    head = [
        "model",
        "by",
        "streams",
        "tokens/s through inferd",
        "of the scheduler directly",
        "ratio",
        "failed",
    ]
    return "## End to end on real SGLang\n\n" + _table(head, rows) if rows else ""


def _notes(results: dict[str, Any]) -> str:
    lines = [f"- {results['titles'][front]}: {note}." for front, note in results["notes"].items() if note]
    lines += [f"- {front} is absent: {why}" for front, why in results["absent"].items()]
    for one in results["figures"]:
        lines += [
            f"- {one['front']}, {one['cell']}: {count} x {what}" for what, count in one["errors"].items()
        ]
    return "## Notes\n\n" + "\n".join(dict.fromkeys(lines)) if lines else ""

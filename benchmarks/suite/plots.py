"""Draws a PNG of each curve, from the JSON of a run. Runs in an environment of its own, which has matplotlib.

python plots.py RESULTS_JSON FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib  # type: ignore[import-not-found]

matplotlib.use("Agg")
from matplotlib import pyplot


def main(file: Path, folder: Path) -> None:
    """Draw the curves of the results."""
    results = json.loads(file.read_text())
    points = results["growth"]
    for curve in dict.fromkeys(point["curve"] for point in points):
        of_curve = [point for point in points if point["curve"] == curve]
        unit = "µs CPU a token" if curve == "streams" else "µs CPU a request"
        _draw(folder / f"{curve.replace(' ', '-')}.png", of_curve, curve, "cpu_us", unit)
        if any(point["rss_mb"] for point in of_curve):
            _draw(folder / f"{curve.replace(' ', '-')}-memory.png", of_curve, curve, "rss_mb", "RSS, MB")
    _bars(results, folder / "tokens.png", "token", 1.0, "µs CPU a streamed token")
    _bars(results, folder / "requests.png", "request", 1e-3, "ms CPU a request")


def _draw(file: Path, points: list[dict[str, Any]], curve: str, key: str, label: str) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for front in dict.fromkeys(point["front"] for point in points):
        of_front = [point for point in points if point["front"] == front and point[key]]
        axes.plot([point["x"] for point in of_front], [point[key] for point in of_front], "o-", label=front)
    if curve in ("streams", "models", "replicas"):
        axes.set_xscale("log")
    axes.set_xlabel(curve)
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def _bars(results: dict[str, Any], file: Path, unit: str, scale: float, label: str) -> None:
    cells = [cell for cell, its in results["units"].items() if its == unit]
    fronts = [
        front
        for front in results["titles"]
        if any(one["front"] == front and one["cell"] in cells for one in results["figures"])
    ]
    if not fronts:
        return
    figure, axes = pyplot.subplots(figsize=(9, 4.5))
    width = 0.8 / len(fronts)
    for place, front in enumerate(fronts):
        for number, cell in enumerate(cells):
            values = sorted(
                one["cpu_us"] * scale
                for one in results["figures"]
                if (one["front"], one["cell"]) == (front, cell) and one["cpu_us"]
            )
            if values:
                middle = values[len(values) // 2]
                axes.bar(
                    number + place * width,
                    middle,
                    width,
                    color=f"C{place}",
                    label=front if number == 0 else None,
                    yerr=[[middle - values[0]], [values[-1] - middle]],
                )
    axes.set_yscale("log")
    axes.set_xticks(
        [number + 0.4 for number in range(len(cells))], cells, rotation=25, ha="right", fontsize=8
    )
    axes.set_ylabel(label)
    axes.legend(
        handles=[pyplot.Rectangle((0, 0), 1, 1, color=f"C{place}") for place in range(len(fronts))],
        labels=fronts,
        fontsize=8,
    )
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

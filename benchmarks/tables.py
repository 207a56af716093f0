"""Put the results of the benchmarks into the documentation: ``python benchmarks/tables.py``.

Each ``<!-- bench: NAME -->`` ... ``<!-- end -->`` in ``docs/performance.md`` is replaced by what
``benchmark-results/NAME.json`` says, the JSON is copied to ``docs/benchmarks/``, and its plots are drawn into
``docs/images/``. A block without such a file stays as it is.

``python benchmarks/tables.py docs/benchmarks`` makes the page anew from the figures that were published before.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from common import RESULTS, ROOT, render

BLOCK = re.compile(r"(<!-- bench: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
IMAGES, FIGURES = "images", "benchmarks"


def filled(text: str, results: Path) -> tuple[str, list[str]]:
    """Return `text` with the blocks whose results are there, and the names of those."""
    done: list[str] = []

    def block(found: re.Match[str]) -> str:
        file = results / f"{found['name']}.json"
        if not file.is_file():
            return found[0]
        done.append(found["name"])
        return f"{found[1]}\n{render(json.loads(file.read_text(encoding='utf-8')), IMAGES)}\n\n{found[3]}"

    return BLOCK.sub(block, text), done


def draw(plot: dict, path: Path) -> None:
    """Draw a plot as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = path.stem  # the same figures give the same file
    mpl.rcParams["svg.fonttype"] = "none"  # words stay words
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    figure, axes = plt.subplots(figsize=(4.5, 3.4), layout="constrained")
    for label, points in plot["series"].items():
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.set(xscale="log", xlabel=plot["x"], ylabel=plot["y"])
    places = sorted({x for points in plot["series"].values() for x, _ in points})
    axes.set_xticks(places, [f"{x:,.3g}" if x < 1000 else f"{x:,.0f}" for x in places], minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    if plot.get("from_zero"):
        axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> int:
    """Fill the page and draw the plots; 1 where a benchmark's result has no block in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    options = parser.parse_args()
    text, done = filled(options.page.read_text(encoding="utf-8"), options.results)
    options.page.write_text(text, encoding="utf-8")
    for name in done:
        result = (options.results / f"{name}.json").read_text(encoding="utf-8")
        published = options.page.parent / FIGURES / f"{name}.json"
        published.parent.mkdir(exist_ok=True)
        published.write_text(result, encoding="utf-8")
        for plot in json.loads(result)["plots"]:
            draw(plot, options.page.parent / IMAGES / f"{plot['name']}.svg")
    print(f"{options.page}: {', '.join(done) or 'nothing to fill'}")
    spare = sorted({p.stem for p in options.results.glob("*.json")} - set(done))
    if spare:
        print(f"No block for: {', '.join(spare)}", file=sys.stderr)
    return 1 if spare else 0


if __name__ == "__main__":
    sys.exit(main())

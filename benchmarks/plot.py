"""Draw results/benchmarks/speed.png and growth.png from the tables beside them."""

import csv
import sys
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "code"))

from figures import COLOURS  # noqa: E402

FOLDER = ROOT / "results" / "benchmarks"


def read(name: str) -> list[dict]:
    with (FOLDER / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def where(rows: list[dict], **wanted: str) -> list[dict]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def draw_speed(rows: list[dict]) -> Figure:
    """Forward passes of ours and of what there was, 8 images, by the number of targets."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    cases = (
        ("ViT-B/32", ("last grad", "all grads"), "the original"),
        ("ViT-B/16", ("last grad", "all grads"), "the original"),
        ("RN50", ("GradCAM", "LayerCAM"), "grad-cam"),
    )
    axes = figure.subplots(1, 3, sharey=True)
    for axis, (model, methods, rival) in zip(axes, cases, strict=True):
        for method, colour in zip(methods, COLOURS, strict=False):
            found = where(rows, model=model, method=method, batch="8")
            targets = [int(row["targets"]) for row in found]
            ours = [float(row["forwards"]) for row in found]
            theirs = [float(row["forwards"]) * float(row["speed_up"]) for row in found]
            axis.plot(targets, ours, "o-", color=colour, label=method)
            axis.plot(targets, theirs, "o:", color=colour, label=f"{method}, {rival}")
        axis.set(xscale="log", yscale="log", xlabel="targets an image", title=f"{model}, 8 images")
        axis.axhline(1, color="black", linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("time in forward passes")
    return figure


def draw_growth(rows: list[dict]) -> Figure:
    """Time over each size, with the exponents measured and, in brackets, expected."""
    names = list(dict.fromkeys(row["grows"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names)), names, strict=True):
        for method, colour in zip(methods, COLOURS, strict=False):
            found = where(rows, method=method, grows=name)
            exponents = f"{float(found[0]['exponent']):.2f} ({float(found[0]['expected']):.2f})"
            sizes = [int(row["size"]) for row in found]
            times = [float(row["milliseconds"]) for row in found]
            axis.plot(sizes, times, "o-", color=colour, label=f"{method}: {exponents}")
        axis.set(xscale="log", yscale="log", xlabel=name)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=7)
    figure.axes[0].set_ylabel("milliseconds")
    return figure


def main() -> None:
    for name, draw in (("speed", draw_speed), ("growth", draw_growth)):
        draw(read(name)).savefig(FOLDER / f"{name}.png", dpi=110)
        print(f"wrote {FOLDER / name}.png")


if __name__ == "__main__":
    main()

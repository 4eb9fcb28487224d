"""Draw the figures of results/benchmarks/ from the tables beside them."""

import csv
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "code"))

from figures import COLOURS, short  # noqa: E402
from files import whole_file  # noqa: E402

OTHERS = ("legrad", "grad-cam", "torchcam", "captum")
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
        ticks = set()
        for method, colour in zip(methods, COLOURS, strict=False):
            found = where(rows, method=method, grows=name)
            exponents = f"{float(found[0]['exponent']):.2f} ({float(found[0]['expected']):.2f})"
            sizes = [int(row["size"]) for row in found]
            times = [float(row["milliseconds"]) for row in found]
            axis.plot(sizes, times, "o-", color=colour, label=f"{method}: {exponents}")
            ticks |= set(sizes)
        axis.set(xscale="log", yscale="log", xlabel=name)
        for one in (axis.xaxis, axis.yaxis):
            one.set_minor_locator(NullLocator())
        shown = sorted(ticks)[:: 2 if len(ticks) > 5 else 1]
        axis.set_xticks(shown, [str(tick) for tick in shown])
        low, high = axis.get_ylim()
        axis.set_ylim(low, high * (high / low) ** 0.25)  # room for the legend
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:.0f}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=7, loc="upper left")
    figure.axes[0].set_ylabel("milliseconds")
    return figure


def draw_rivals(rows: list[dict]) -> Figure:
    """Time and peak memory of ours and of other libraries, nine targets; ours in colour."""
    cases = (("ViT-B/16", "1"), ("RN50", "8"))
    found = [(case, where(rows, model=case[0], batch=case[1], targets="9")) for case in cases]
    found = [(case, some) for case, some in found if some]
    figure = Figure(figsize=(9, 0.6 + 0.22 * sum(len(some) for _, some in found)))
    figure.set_layout_engine("constrained")
    heights = [len(some) for _, some in found]
    axes = figure.subplots(len(found), 2, squeeze=False, height_ratios=heights)
    for line, ((model, batch), some) in zip(axes, found, strict=True):
        names = [row["method"] for row in some][::-1]
        colours = ["#999999" if name.startswith(OTHERS) else COLOURS[0] for name in names]
        for axis, measure in zip(line, ("forwards", "peak_mib"), strict=True):
            values = [float(row[measure]) for row in some][::-1]
            bars = axis.barh(names, values, color=colours)
            axis.bar_label(bars, [f" {short(value)}" for value in values], fontsize=7)
            axis.set_xscale("log")
            axis.margins(x=0.15)
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
        line[1].set_yticklabels([])
        images = "1 image" if batch == "1" else f"{batch} images"
        line[0].set_title(f"{model}, {images}, 9 targets", loc="left", fontsize=9)
    axes[-1][0].set_xlabel("time in forward passes")
    axes[-1][1].set_xlabel("peak memory, MiB")
    return figure


DRAWN = {"speed": draw_speed, "growth": draw_growth, "rivals": draw_rivals}


def main() -> None:
    for name, draw in DRAWN.items():
        path = FOLDER / f"{name}.png"
        with whole_file(path) as unfinished:
            draw(read(name)).savefig(unfinished, dpi=110)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()

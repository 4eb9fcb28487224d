"""The figures of an evaluation, from its tables."""

from itertools import cycle, product
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from evaluation.last_grad import VARIANTS
from evaluation.study import FEWER
from evaluation.tables import SIZES, Rows
from figures import COLOURS
from files import whole_file

METHOD, BASELINE = COLOURS[0], "#999999"
RELATIVES = ("direct", "gradcam", "all grads", *VARIANTS)  # of last grad


def chosen(rows: Rows, **wanted) -> Rows:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def errors(rows: Rows) -> np.ndarray:
    """How far the interval of each row reaches below and above its mean."""
    return np.array([(row["mean"] - row["low"], row["high"] - row["mean"]) for row in rows]).T


def ranking(axis, rows: Rows, label: str) -> None:
    """Horizontal bars, the best on top; baselines in grey."""
    rows = sorted(rows, key=lambda row: row["mean"])
    colours = [METHOD if row["kind"] == "method" else BASELINE for row in rows]
    axis.barh(
        [row["method"] for row in rows],
        [row["mean"] for row in rows],
        xerr=errors(rows),
        color=colours,
        error_kw={"elinewidth": 1, "capsize": 2},
    )
    axis.set_xlabel(label)
    axis.spines[["top", "right"]].set_visible(False)


def lines(axis, series: dict[str, Rows], ticks: list[str]) -> None:
    """A curve with its intervals for each name; a row a tick."""
    styles = product(("o-", "s--", "^:"), COLOURS)
    for (name, rows), (style, colour) in zip(series.items(), styles, strict=False):
        means = [row["mean"] for row in rows]
        axis.errorbar(
            range(len(rows)),
            means,
            errors(rows),
            fmt=style,
            ms=4,
            capsize=2,
            color=colour,
            label=name,
        )
    axis.set_xticks(range(len(ticks)), ticks)
    axis.spines[["top", "right"]].set_visible(False)


def draw_rankings(rows: Rows, name: str) -> Figure:
    """All methods and baselines, a panel a measure."""
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    count = len({row["method"] for row in rows})
    figure = Figure(figsize=(12, 0.23 * count + 0.8), layout="constrained")
    for axis, measure in zip(figure.subplots(1, len(measures)), measures, strict=True):
        ranking(axis, chosen(rows, measure=measure), measure)
    figure.axes[0].set_title(name, loc="left")
    return figure


def draw_localisation(rows: Rows, name: str) -> Figure:
    """All measures, over all objects; dotted is chance."""
    figure = draw_rankings(chosen(rows, objects="all"), name)
    for axis in figure.axes:
        axis.axvline(rows[0]["chance"], color="black", linestyle=":", linewidth=1)
    return figure


def draw_groups(rows: Rows, name: str) -> Figure:
    """Pointing by the number of objects and by their size, of the five best."""
    mine = chosen(rows, measure="pointing")
    methods = dict.fromkeys(row["method"] for row in mine)
    best = sorted(methods, key=lambda m: -chosen(mine, method=m, objects="all")[0]["mean"])[:5]
    found = list(dict.fromkeys(row["objects"] for row in mine))
    numbers = [one for one in found if "object" in one]
    sizes = [one for one in SIZES if one in found]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, ticks in zip(axes, (numbers, sizes), strict=True):
        series = {m: [chosen(mine, method=m, objects=tick)[0] for tick in ticks] for m in best}
        lines(axis, series, ticks)
    axes[0].set_ylabel("pointing")
    axes[0].set_title(name, loc="left")
    axes[1].legend(frameon=False, fontsize=8, bbox_to_anchor=(1, 1), loc="upper left")
    return figure


def apart(heights: list[float], gap: float) -> list[float]:
    """Heights in ascending order, pushed up where they are closer than `gap`; then centred."""
    found = []
    for height in heights:
        found.append(max(height, found[-1] + gap) if found else height)
    shift = (sum(found) - sum(heights)) / len(heights)
    return [height - shift for height in found]


def draw_cost(rows: Rows, costs: Rows, name: str) -> Figure:
    """Time of the maps of a picture, in forward passes, against pointing."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axis, labels = figure.subplots(), []
    for row in sorted(chosen(rows, measure="pointing", objects="all"), key=lambda row: row["mean"]):
        (cost,) = chosen(costs, method=row["method"])
        axis.errorbar(
            cost["forwards"], row["mean"], errors([row]), fmt="o", color=METHOD, capsize=2
        )
        labels.append((row["mean"], cost["forwards"], row["method"]))
    axis.set(xscale="log", xlabel="time in forward passes", ylabel="pointing")
    heights = [label[0] for label in labels]
    places = apart(heights, 0.05 * (heights[-1] - heights[0]))
    for place, (mean, forwards, method) in zip(places, labels, strict=True):
        axis.annotate(
            method,
            (forwards, mean),
            xytext=(1.35 * forwards, place),
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5},
        )
    axis.margins(y=0.12)  # labels need more than their points
    axis.set_title(name, loc="left", pad=12)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_sanity(rows: Rows, name: str) -> Figure:
    """Rank correlation with the trained model's map while parts are drawn anew."""
    methods = dict.fromkeys(row["method"] for row in rows)
    ticks = list(dict.fromkeys(row["drawn anew down to"] for row in rows))
    height = max(3.2, 0.19 * len(methods) + 0.5)  # of the legend
    figure = Figure(figsize=(10, height), layout="constrained")
    axis = figure.subplots()
    lines(axis, {method: chosen(rows, method=method) for method in methods}, ticks)
    axis.axhline(0, color="black", linewidth=0.5)
    axis.set(ylabel="rank correlation", xlabel="drawn anew from the output down to")
    axis.set_title(name, loc="left")
    axis.legend(frameon=False, fontsize=8, bbox_to_anchor=(1, 1), loc="upper left")
    return figure


def draw_last_grad(rows: Rows, against: Rows, name: str) -> Figure:
    """What makes the map of `last grad`, by block and by head; and what it gains on others."""
    against = chosen(against, measure="pointing")
    blocks = [row["part"] for row in chosen(rows, measure="agreement", objects="all")]

    def by_block(measure: str, prefix: str = "", objects: str = "all") -> Rows:
        parts = [prefix + block for block in blocks]
        return [chosen(rows, part=p, measure=measure, objects=objects)[0] for p in parts]

    sizes = [size for size in SIZES if chosen(rows, objects=size)]
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    for axis, label, series in (
        (axes[0, 0], "share", {"share of the map": by_block("share")}),
        (
            axes[0, 1],
            "pointing",
            {"the block alone": by_block("pointing"), "from it on": by_block("pointing", "from ")},
        ),
        (
            axes[0, 2],
            "pointing",
            {f"{size}, from the block on": by_block("pointing", "from ", size) for size in sizes},
        ),
        (axes[1, 1], "cosine with the last gradient", {"own gradient": by_block("agreement")}),
    ):
        lines(axis, series, [block.split()[-1] for block in blocks])
        axis.set(xlabel="block", ylabel=label, ylim=(min(0, axis.get_ylim()[0]), None))
    heads_of(axes[1, 0], rows, blocks)
    gains_of(axes[1, 2], against)
    for axis in axes.flat:
        axis.legend(frameon=False, fontsize=7)
    axes[0, 0].set_title(f"{name}, last grad", loc="left")
    return figure


def heads_of(axis, rows: Rows, blocks: list[str]) -> None:
    """A point a head: its share of the map, and how well it points alone."""
    rows = chosen(rows, objects="all")
    for block, colour in zip(blocks, cycle(COLOURS), strict=False):
        found = [row for row in rows if row["part"].startswith(f"{block}, head")]
        x, y = (
            [row["mean"] for row in found if row["measure"] == measure]
            for measure in ("share", "pointing")
        )
        axis.plot(x, y, "o", color=colour, label=block)
    axis.set(xlabel="share of the map, a point a head", ylabel="pointing of the head alone")
    axis.spines[["top", "right"]].set_visible(False)


def gains_of(axis, rows: Rows) -> None:
    """How much better `last grad` points than its relatives, by number and size of objects."""
    rivals = [name for name in RELATIVES if chosen(rows, against=name)]
    groups = list(dict.fromkeys(row["objects"] for row in rows))
    lines(axis, {f"over {name}": chosen(rows, against=name) for name in rivals}, groups)
    axis.axhline(0, color="black", linewidth=0.5)
    axis.tick_params(axis="x", rotation=45)
    axis.set_ylabel("gain in pointing of last grad")


def draw_all(tables: dict[str, Rows], folder: Path) -> None:
    """Of each model every figure for which there are rows; one without takes an older file away."""
    for model in dict.fromkeys(row["model"] for row in tables["localisation"]):
        mine = {name: chosen(rows, model=model) for name, rows in tables.items()}
        localisation = mine["localisation"]
        found = {
            "localisation": (draw_localisation, localisation),
            "groups": (draw_groups, [row for row in localisation if row["method"] not in FEWER]),
            "cost": (draw_cost, chosen(localisation, kind="method"), mine["cost"]),
            "faithfulness": (draw_rankings, mine["faithfulness"]),
            "sanity": (draw_sanity, mine["sanity"]),
            "last_grad": (draw_last_grad, mine["last_grad"], mine["last_grad_against"]),
        }
        for name, (draw, rows, *more) in found.items():
            path = folder / f"{model}_{name}.png"
            if rows:
                with whole_file(path) as unfinished:
                    draw(rows, *more, model).savefig(unfinished, dpi=110)
            else:
                path.unlink(missing_ok=True)

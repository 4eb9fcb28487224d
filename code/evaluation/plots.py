"""The figures of an evaluation, from its tables."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from evaluation.study import FEWER
from evaluation.tables import SIZES, Rows
from figures import COLOURS

METHOD, BASELINE = COLOURS[0], "#999999"


def models(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["model"] for row in rows))


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
    for (name, rows), colour in zip(series.items(), COLOURS, strict=False):
        means = [row["mean"] for row in rows]
        axis.errorbar(
            range(len(rows)),
            means,
            errors(rows),
            fmt="o-",
            ms=4,
            capsize=2,
            color=colour,
            label=name,
        )
    axis.set_xticks(range(len(ticks)), ticks)
    axis.spines[["top", "right"]].set_visible(False)


def draw_localisation(rows: Rows) -> Figure:
    """All measures of all methods, a row of panels a model."""
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    names = models(rows)
    heights = [len({row["method"] for row in chosen(rows, model=name)}) for name in names]
    figure = Figure(figsize=(12, 0.23 * sum(heights) + 0.8 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(measures), squeeze=False, height_ratios=heights)
    for line, name in zip(axes, names, strict=True):
        for axis, measure in zip(line, measures, strict=True):
            some = chosen(rows, model=name, measure=measure, objects="all")
            ranking(axis, some, measure)
            if measure == "pointing":
                axis.set_title(name, loc="left")
            axis.axvline(some[0]["chance"], color="black", linestyle=":", linewidth=1)
    return figure


def draw_groups(rows: Rows) -> Figure:
    """Pointing by the number of objects and by their size."""
    names = models(rows)
    figure = Figure(figsize=(9, 3.2 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 2, squeeze=False, sharey="row")
    for line, name in zip(axes, names, strict=True):
        mine = chosen(rows, model=name, measure="pointing")
        methods = list(dict.fromkeys(row["method"] for row in mine if row["method"] not in FEWER))
        best = sorted(methods, key=lambda m: -chosen(mine, method=m, objects="all")[0]["mean"])[:5]
        found = list(dict.fromkeys(row["objects"] for row in mine))
        numbers = [one for one in found if "object" in one]
        sizes = [one for one in SIZES if one in found]
        for axis, ticks in zip(line, (numbers, sizes), strict=True):
            series = {m: [chosen(mine, method=m, objects=tick)[0] for tick in ticks] for m in best}
            lines(axis, series, ticks)
        line[0].set_ylabel("pointing")
        line[0].set_title(name, loc="left")
        line[1].legend(frameon=False, fontsize=8, bbox_to_anchor=(1, 1), loc="upper left")
    return figure


def draw_cost(rows: Rows, costs: Rows) -> Figure:
    """Time of the maps of a picture, in forward passes, against pointing."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for name, colour in zip(models(rows), COLOURS, strict=False):
        for row in chosen(rows, model=name, measure="pointing", objects="all", kind="method"):
            (cost,) = chosen(costs, model=name, method=row["method"])
            axis.errorbar(
                cost["forwards"], row["mean"], errors([row]), fmt="o", color=colour, capsize=2
            )
            axis.annotate(
                row["method"],
                (cost["forwards"], row["mean"]),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize=8,
                color=colour,
            )
        axis.plot([], [], "o", color=colour, label=name)
    axis.set(xscale="log", xlabel="time in forward passes", ylabel="pointing")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def draw_faithfulness(rows: Rows) -> Figure:
    """Insertion and deletion of the similarity, on blurred and mean pictures."""
    names = models(rows)
    measures = [
        f"{way}, similarity, {hidden}"
        for hidden in ("blur", "mean")
        for way in ("insertion", "deletion")
    ]
    heights = [len({row["method"] for row in chosen(rows, model=name)}) for name in names]
    figure = Figure(figsize=(12, 0.23 * sum(heights) + 0.8 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(measures), squeeze=False, height_ratios=heights)
    for line, name in zip(axes, names, strict=True):
        for axis, measure in zip(line, measures, strict=True):
            ranking(axis, chosen(rows, model=name, measure=measure), measure)
        line[0].set_title(name, loc="left")
    return figure


def draw_sanity(rows: Rows) -> Figure:
    """Rank correlation with the trained model's map while parts are drawn anew."""
    names = models(rows)
    figure = Figure(figsize=(10, 3.2 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for axis, name in zip(axes, names, strict=True):
        mine = chosen(rows, model=name)
        methods = dict.fromkeys(row["method"] for row in mine)
        ticks = list(dict.fromkeys(row["drawn anew down to"] for row in mine))
        lines(axis, {method: chosen(mine, method=method) for method in methods}, ticks)
        axis.axhline(0, color="black", linewidth=0.5)
        axis.set(ylabel="rank correlation", xlabel="drawn anew from the output down to")
        axis.set_title(name, loc="left")
        axis.legend(frameon=False, fontsize=8, bbox_to_anchor=(1, 1), loc="upper left")
    return figure


def draw_last_grad(rows: Rows) -> Figure:
    """By block: its share of the map; and pointing of the block alone, and of all from it on."""
    name = models(rows)[0]
    mine = chosen(rows, model=name)
    blocks = [row["part"] for row in mine if row["measure"] == "share" and row["objects"] == "all"]
    blocks = [part for part in blocks if "head" not in part]
    ticks = [part.split()[-1] for part in blocks]
    figure = Figure(figsize=(11, 3.3), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, measure, prefixes in (
        (axes[0], "share", {"share of the map": ""}),
        (axes[1], "pointing", {"the block alone": "", "from the block on": "from "}),
    ):
        series = {
            label: [
                chosen(mine, part=prefix + b, measure=measure, objects="all")[0] for b in blocks
            ]
            for label, prefix in prefixes.items()
        }
        lines(axis, series, ticks)
        axis.set(xlabel="block", ylabel=measure, ylim=(0, None))
        axis.legend(frameon=False, fontsize=8)
    series = {
        f"{size} objects": [
            chosen(mine, part=f"from {b}", measure="pointing", objects=size)[0] for b in blocks
        ]
        for size in SIZES
        if chosen(mine, objects=size)
    }
    lines(axes[2], series, ticks)
    axes[2].set(xlabel="from the block on", ylabel="pointing", ylim=(0, None))
    axes[2].legend(frameon=False, fontsize=8)
    axes[0].set_title(f"{name}, last grad", loc="left")
    return figure


def draw_all(tables: dict[str, Rows], folder: Path) -> None:
    """Every figure for which there are rows."""
    found = {
        "localisation": (draw_localisation, tables["localisation"]),
        "groups": (draw_groups, tables["localisation"]),
        "cost": (draw_cost, tables["localisation"], tables["cost"]),
        "faithfulness": (draw_faithfulness, tables["faithfulness"]),
        "sanity": (draw_sanity, tables["sanity"]),
        "last_grad": (draw_last_grad, tables["last_grad"]),
    }
    for name, (draw, rows, *more) in found.items():
        if rows:
            draw(rows, *more).savefig(folder / f"{name}.png", dpi=110)

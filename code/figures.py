"""Figures: a grid of pictures, bars and curves with their uncertainty, legends.

Texts are drawn letter by letter as they are given: `$` begins no mathematics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from textwrap import fill

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Patch
from matplotlib.text import Text

from checks import require_finite
from intervals import interval

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
HEAT = "viridis"  # of maps that are drawn alone; it is safe for colour-blind readers
TITLE, NOTE = 10, 8.5  # points
GAP = 0.08  # between panels, in inches


@dataclass(frozen=True)
class Panel:
    """One picture of a grid: in colours, or a map [row, column] that shares the grid's scale."""

    picture: Float[np.ndarray, "row column *channel"]
    title: str = ""  # above it
    note: str = ""  # below it


def grid(
    rows: Sequence[Sequence[Panel | None]],
    labels: Sequence[str] = (),
    title: str = "",
    side: float = 1.9,
    legend: Mapping[str, str] | None = None,
    scale: str = "",
) -> Figure:
    """Panels in rows; `None` leaves a place empty.

    labels: of the rows, at their left. side: of a panel, in inches. legend: text -> colour.
    scale: what the values of maps are, at the colour bar that all of them share.
    """
    columns = max(map(len, rows))
    width = columns * (side + GAP) + 0.35 * bool(labels)
    title = wrapped(title, width - GAP, TITLE + 2)
    lines = [max((text_lines(panel, side) for panel in row if panel), default=0) for row in rows]
    height = sum(side + 0.16 * count + 0.08 for count in lines)
    figure = Figure(
        figsize=(width, height + 0.4 * bool(title or legend) + 0.2 * title.count("\n")),
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.05)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    maps = [panel.picture for row in rows for panel in row if panel and panel.picture.ndim == 2]
    for values in maps:
        require_finite(values, "values of a map")
    top = max((values.max() for values in maps), default=1)
    image = None
    for line, row in zip(axes, rows, strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for axis, panel in zip(line, row, strict=False):
            if panel is None:
                continue
            drawn = axis.imshow(panel.picture, cmap=HEAT, vmin=0, vmax=top)
            image = drawn if panel.picture.ndim == 2 else image
            axis.set_title(wrapped(panel.title, side, TITLE), fontsize=TITLE)
            axis.set_xlabel(wrapped(panel.note, side, NOTE), fontsize=NOTE)
    for line, label in zip(axes, labels, strict=False):
        line[0].set_ylabel(wrapped(label, side, TITLE), fontsize=TITLE)
    if title:
        figure.suptitle(title, fontsize=TITLE + 2)
    if scale and image is not None:
        figure.colorbar(image, ax=axes, label=scale, shrink=0.8, aspect=30)
    if legend:
        patches = [Patch(color=colour, label=text) for text, colour in legend.items()]
        figure.legend(handles=patches, loc="outside lower center", ncols=3, fontsize=TITLE)
    verbatim(figure)
    if any("\n" in axis.get_title() + axis.get_xlabel() for axis in axes.flat):
        # The layout's first guess at the room for high texts is too small; it mends it each time.
        for _ in range(4):
            figure.get_layout_engine().execute(figure)
    return figure


def verbatim(figure: Figure) -> None:
    """Take no text of a figure for mathematics."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)


def without_glyph(text: str) -> list[str]:
    """The letters that none of matplotlib's fonts (`font.family`) has: it draws boxes for them."""
    families = FontProperties().get_family()
    fonts = [get_font(findfont(FontProperties(family=[name]))) for name in families]
    return [
        letter
        for letter in sorted(set(text))
        if letter.isprintable() and not any(font.get_char_index(ord(letter)) for font in fonts)
    ]


def wrapped(text: str, inches: float, points: float) -> str:
    """`text` in lines that fit; a letter is about half as wide as high, but some are wider."""
    width = int(inches * 72 / (0.55 * points))
    lines = "\n".join(fill(line, width) for line in text.split("\n"))
    while width > 1 and breadth(lines, points) > inches + GAP:
        width -= 1
        lines = "\n".join(fill(line, width) for line in text.split("\n"))
    return lines


def breadth(lines: str, points: float) -> float:
    """Of the longest line, in inches."""
    measure = RendererAgg(1, 1, dpi=100).get_text_width_height_descent
    font = FontProperties(size=points)
    return max(measure(line, font, ismath=False)[0] for line in lines.split("\n")) / 100


def text_lines(panel: Panel, side: float) -> int:
    """Lines of text above and below a panel."""
    texts = (wrapped(panel.title, side, TITLE), wrapped(panel.note, side, NOTE))
    return sum(1 + text.count("\n") for text in texts if text)


def bars(
    samples: Mapping[str, Mapping[str, np.ndarray]],
    ylabel: str,
    line: tuple[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Means of `samples[series][group]` as bars with 95 % bootstrap intervals.

    line: a level to compare with, such as ("chance", 0.1).
    """
    groups = list(dict.fromkeys(group for series in samples.values() for group in series))
    figure = Figure(
        figsize=(max(5, 1.3 * len(groups) * len(samples) ** 0.5), 3.2), layout="constrained"
    )
    axis = figure.subplots()
    width = 0.8 / len(samples)
    for place, ((name, series), colour) in enumerate(zip(samples.items(), cycle(COLOURS))):
        found = [
            (groups.index(group), *mean_and_errors(values)) for group, values in series.items()
        ]
        at, means, below, above = np.array(found).T
        axis.bar(
            at + (place - (len(samples) - 1) / 2) * width,
            means,
            width,
            yerr=(below, above),
            label=name,
            color=colour,
            error_kw={"elinewidth": 1, "capsize": 2},
        )
    names = [fill(group, 16) for group in groups]
    axis.set_xticks(range(len(groups)), names, fontsize=NOTE)
    finish(axis, ylabel, line, title)
    return figure


def curves(
    samples: Mapping[str, Sequence[np.ndarray]],
    ticks: Sequence,
    xlabel: str,
    ylabel: str,
    line: tuple[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Means of `samples[name][tick]` as curves with bands of 95 % bootstrap intervals."""
    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    axis = figure.subplots()
    for (name, series), colour in zip(samples.items(), cycle(COLOURS)):
        means, below, above = np.array([mean_and_errors(values) for values in series]).T
        axis.plot(ticks, means, "o-", color=colour, label=name, markersize=4)
        axis.fill_between(ticks, means - below, means + above, color=colour, alpha=0.2, lw=0)
    axis.set_xticks(ticks)
    axis.set_xlabel(xlabel)
    finish(axis, ylabel, line, title)
    return figure


def finish(axis, ylabel: str, line: tuple[str, float] | None, title: str) -> None:
    if line:
        axis.axhline(line[1], color="black", linestyle=":", linewidth=1, label=line[0])
    axis.set_ylabel(ylabel)
    axis.set_ylim(bottom=0)
    axis.set_title(title, fontsize=TITLE + 1)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=NOTE, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    verbatim(axis.figure)


def short(number: float) -> str:
    """Three digits, or more before the point; two decimals at most."""
    places = 0 if number >= 100 else 1 if number >= 10 else 2
    return f"{number:,.{places}f}"


def mean_and_errors(values: np.ndarray) -> tuple[float, float, float]:
    """The mean, and how far its interval reaches below and above."""
    mean = float(np.mean(values))
    low, high = interval(values)
    return mean, mean - low, high - mean

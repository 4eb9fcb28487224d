"""Sentences whose words are coloured by their relevance: on matplotlib axes, and in HTML.

    show_text_relevance(relevance)             on the current axes, with a key
    HTML(text_relevance_html(relevance))       in a notebook

Orange speaks for the target, blue against it: colours that colour-blind readers tell apart. The
text stands as it was given, with its punctuation, which has no relevance of its own.
"""

from collections.abc import Iterator
from html import escape

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex

from checks import require_finite
from figures import breadth
from text_saliency import WordRelevance

AGAINST, FOR = "#0072B2", "#E69F00"  # Okabe and Ito's blue and orange
SIGNED = LinearSegmentedColormap.from_list("words", [AGAINST, "white", FOR], N=257)
POINTS = 12
LINE = 1.7  # height of a line, in heights of the letters
GAP = ("  ", 0.0, False)  # between parts of a key


def shares(
    relevance: WordRelevance, target: int = 0, largest: float | None = None
) -> tuple[np.ndarray, float]:
    """The relevance of each word in [-1, 1], of the `largest`, by default its own; and that.

    Raises ValueError or IndexError for a target that there is not, and for what is not finite.
    """
    values = relevance.relevance[target].detach().float().cpu().numpy()
    require_finite(values, "relevances of words")
    if largest is None:
        largest = float(np.abs(values).max())
    if not 0 <= largest < np.inf:
        raise ValueError(f"largest must be positive, what the strongest colour says; got {largest}")
    return np.clip(values / largest, -1, 1) if largest else np.zeros_like(values), largest


def pieces(relevance: WordRelevance) -> Iterator[tuple[str, int | None]]:
    """The text in pieces: words, with their places, and what stands between them."""
    before = 0
    for place, (start, end) in enumerate(relevance.spans):
        if start > before:
            yield relevance.text[before:start], None
        yield relevance.text[start:end], place
        before = end
    if before < len(relevance.text):
        yield relevance.text[before:], None


def colour(share: float) -> str:
    return to_hex(SIGNED(Normalize(-1, 1)(share)))


def signs(values: np.ndarray) -> list[tuple[str, float]]:
    """What the colours of a text say, and how strong they are in its key."""
    return [("against", -1.0)] * bool((values < 0).any()) + [("for", 1.0)]


def ink(share: float) -> str:
    """Letters that can be read on the colour."""
    return "white" if share < -0.6 else "black"


def show_text_relevance(
    relevance: WordRelevance,
    target: int = 0,
    *,
    axes: Axes | None = None,
    largest: float | None = None,
    points: float = POINTS,
) -> Axes:
    """Draw a text, its words on colours of their relevance to a target, wrapped to the axes' width.

    relevance: of one text, as `text_relevance` returns it; target: which of its targets.
    axes: by default the current ones. largest: the relevance of the strongest colour, by default
    the text's largest (give one to compare texts). The key below says how much that is.
    """
    axes = axes or plt.gca()
    values, largest = shares(relevance, target, largest)
    axes.set_axis_off()
    inches = axes.get_window_extent().size / axes.figure.dpi
    height = LINE * points / 72
    words = [
        (text, 0.0 if place is None else values[place], place is not None)
        for text, place in pieces(relevance)
    ]
    last = draw_line(axes, words, inches, height, 0, points)
    legend = [part for name, sign in signs(values) for part in ((name, sign, True), GAP)]
    legend.append((f"strongest {largest:.2g}", 0.0, True))
    draw_line(axes, legend, inches, height, last + 1.5, 0.75 * points)
    return axes


def draw_line(
    axes: Axes,
    parts: list[tuple[str, float, bool]],
    inches: Float[np.ndarray, "2"],
    height: float,
    line: float,
    points: float,
) -> float:
    """Draw parts (text, its share, whether it may begin a line) from a line on, wrapped to
    the width of the axes; the number of the last line.
    """
    left = 0.0
    for text, share, begins in parts:
        shown = text if begins else " ".join(text.split("\n"))
        wide = breadth(f"|{shown}|", points) - breadth("||", points)
        if begins and left and left + wide > inches[0]:
            line, left = line + 1, 0.0
        axes.text(
            left / inches[0],
            1 - (line + 0.5) * height / inches[1],
            shown,
            transform=axes.transAxes,
            fontsize=points,
            va="center",
            parse_math=False,
            color=ink(share),
            backgroundcolor=colour(share),
        ).get_bbox_patch().set(boxstyle="square,pad=0.1")
        left += wide
    return line


def text_relevance_html(
    relevance: WordRelevance, target: int = 0, largest: float | None = None
) -> str:
    """The same as a paragraph of HTML, with the relevance of each word where the mouse rests on it.

    Nothing of the text is taken for HTML.
    """
    values, largest = shares(relevance, target, largest)
    raw = relevance.relevance[target].tolist()
    parts = [
        escape(text)
        if place is None
        else f'<span title="{raw[place]:+.3g}" style="background:{colour(values[place])};'
        f'color:{ink(values[place])}">{escape(text)}</span>'
        for text, place in pieces(relevance)
    ]
    legend = " ".join(
        f'<span style="background:{colour(share)};color:{ink(share)}">{name}</span>'
        for name, share in signs(values)
    )
    return (
        f'<p style="background:white;color:black;white-space:pre-wrap">{"".join(parts)}</p>'
        f"<p><small>{legend} strongest {largest:.2g}</small></p>"
    )

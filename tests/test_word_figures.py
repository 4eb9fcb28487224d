"""Sentences are drawn as they stand, each word in the colour of its relevance; HTML is escaped."""

import re

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgb

from text_saliency import WordRelevance
from word_figures import AGAINST, FOR, show_text_relevance, text_relevance_html

TEXT = "a $cow, <b>& a\nsheep"
WORDS = ["a", "$cow", "<b>&", "a", "sheep"]
VALUES = torch.tensor([[0.0, 2.0, -2.0, 0.5, -0.1], [0.0] * 5])


@pytest.fixture
def relevance():
    spans, start = [], 0
    for word in WORDS:
        start = TEXT.index(word, start)
        spans.append((start, start + len(word)))
        start += len(word)
    return WordRelevance(TEXT, WORDS, spans, VALUES)


@pytest.fixture
def axes():
    figure, axes = plt.subplots(figsize=(6, 2))
    yield axes
    plt.close(figure)


def behind(axes):
    return {text.get_text(): text.get_bbox_patch().get_facecolor()[:3] for text in axes.texts}


def test_words_stand_on_their_colours(relevance, axes):
    assert show_text_relevance(relevance, axes=axes) is axes
    found = behind(axes)
    assert found["$cow"] == pytest.approx(to_rgb(FOR), abs=0.01)
    assert found["<b>&"] == pytest.approx(to_rgb(AGAINST), abs=0.01)
    assert found[", "] == (1, 1, 1)
    assert found["against"] == pytest.approx(to_rgb(AGAINST), abs=0.01)
    assert "strongest 2" in found
    drawn = "".join(text.get_text() for text in axes.texts[: len(WORDS) * 2 - 1])
    assert drawn == TEXT.replace("\n", " ")
    assert not any(text.get_parse_math() for text in axes.texts)


def test_lines_are_wrapped_to_the_width_of_the_axes():
    text = " ".join(["elephant"] * 12)
    spans = [(9 * place, 9 * place + 8) for place in range(12)]
    relevance = WordRelevance(text, ["elephant"] * 12, spans, torch.ones(1, 12))
    figure, axes = plt.subplots(figsize=(4, 3))
    show_text_relevance(relevance)
    figure.canvas.draw()
    room = axes.get_window_extent()
    words = [one for one in axes.texts if one.get_text() == "elephant"]
    ends = [one.get_window_extent() for one in words]
    assert len({round(end.y0) for end in ends}) > 2
    assert max(end.x1 for end in ends) <= room.x1 + 3
    assert min(end.x0 for end in ends) >= room.x0 - 3
    plt.close(figure)


def test_a_largest_value_makes_texts_comparable(relevance, axes):
    show_text_relevance(relevance, axes=axes, largest=4)
    half = [(1 + channel) / 2 for channel in to_rgb(FOR)]
    assert behind(axes)["$cow"] == pytest.approx(half, abs=0.01)


def test_no_relevance_is_white(relevance, axes):
    show_text_relevance(relevance, target=1, axes=axes)
    assert behind(axes)["$cow"] == (1, 1, 1)


def test_html_takes_nothing_of_a_text_for_html(relevance):
    page = text_relevance_html(relevance)
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page
    assert re.sub(r"<[^>]+>", "", page.split("</p>")[0]) == "a $cow, &lt;b&gt;&amp; a\nsheep"
    assert f"background:{FOR.lower()}" in page
    assert f"background:{AGAINST.lower()}" in page
    assert 'title="+2"' in page


@pytest.mark.parametrize("draw", [show_text_relevance, text_relevance_html])
def test_what_cannot_be_drawn_is_refused(relevance, draw):
    with pytest.raises(IndexError):
        draw(relevance, 2)
    with pytest.raises(ValueError, match="largest"):
        draw(relevance, largest=-1)
    broken = WordRelevance(TEXT, WORDS, relevance.spans, VALUES * torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        draw(broken)

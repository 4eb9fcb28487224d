"""A word is what stands between spaces: taken out whole, and nothing else with it."""

import pytest
import torch
import torch.nn.functional as F

from clip_ import tokenize
from words import without_word, word_directions


@pytest.mark.parametrize(
    ("text", "word", "rest"),
    [
        ("a cow and a sheep", "cow", "a and a sheep"),
        ("a cow and a sheep", "a", "cow and sheep"),  # the a of "and" stays
        ("a cow", "ow", None),
        ("a catalogue of cats", "cat", None),
        ("a cow, and a sheep", "cow", "a , and a sheep"),
        ("a cow, and a sheep", "cow,", "a and a sheep"),
        ('a "cow" (and a sheep)', "sheep", 'a "cow" (and a )'),
        ('a "cow" (and a sheep)', "cow", 'a "" (and a sheep)'),
        ("I write C++ code", "C++", "I write code"),
        ("I write C++ code", "C", None),
        ("f (x) is f of x", "(x)", "f is f of x"),
        ("f (x) is f of x", "x", "f () is f of"),
        ("a .* b", ".*", "a b"),  # no pattern
        ("a b", ".", None),
        ("a well-known cow", "known", None),
        ("it's a cow", "it's", "a cow"),
        ("Cow of the STRASSE", "cow", "of the STRASSE"),
        ("a cow in Straße", "STRASSE", "a cow in"),
        ("a brown cow and a brown sheep", "brown cow", "a and a brown sheep"),
        ("a brown cow, brown cow", "brown cow", "a ,"),
        ("brown", "brown cow", None),
        ("  spaces \t and\nlines ", "and", "spaces lines"),
        ("cow", "cow", ""),
        ("愛 と 平和", "愛", "と 平和"),
    ],
)
def test_a_word_by_its_name(text, word, rest):
    if rest is None:
        with pytest.raises(ValueError, match="is not a word of this text"):
            without_word(text, word)
    else:
        assert without_word(text, word) == rest


@pytest.mark.parametrize(
    ("position", "rest"),
    [
        (0, "cow, and a sheep"),
        (3, "a cow, and sheep"),
        (-2, "a cow, and sheep"),
        (-1, "a cow, and a"),
        (1, "a , and a sheep"),  # the punctuation stays, as it does by name
    ],
)
def test_a_repeated_word_by_its_position(position, rest):
    assert without_word("a cow, and a sheep", position) == rest


@pytest.mark.parametrize(("text", "position", "rest"), [("a - b", 1, "a b"), ("a ... b", 1, "a b")])
def test_a_lone_mark_is_a_word_by_its_position(text, position, rest):
    assert without_word(text, position) == rest


@pytest.mark.parametrize("position", [5, -6])
def test_a_position_that_the_text_does_not_have(position):
    with pytest.raises(ValueError, match=rf"no word at position {position}.*'cow,', 'and'"):
        without_word("a cow, and a sheep", position)


def test_a_missing_word_is_answered_with_the_words_there_are():
    with pytest.raises(ValueError, match=r"'goat' is not a word.*\['a', 'cow'\]"):
        without_word("a cow", "goat")


@pytest.mark.parametrize("word", [" ", "\t\n"])
def test_blanks_are_no_word(word):
    with pytest.raises(ValueError, match="not a word"):
        without_word("a cow", word)


def test_directions_are_differences_of_unit_features(clip):
    text, words = "a cow and a sheep", ["cow", "", 3]
    directions = word_directions(clip, tokenize, text, words)
    with torch.no_grad():
        whole, no_cow, no_second_a = F.normalize(
            clip.encode_text(tokenize([text, "a and a sheep", "a cow and sheep"])), dim=-1
        )
    expected = torch.stack([whole - no_cow, whole, whole - no_second_a])
    torch.testing.assert_close(directions, expected, rtol=0, atol=1e-12)


def test_all_texts_are_encoded_in_one_batch(clip):
    batches = []

    def tokenizer(texts):
        batches.append(texts)
        return tokenize(texts)

    word_directions(clip, tokenizer, "a cow", ["a", "cow", ""])
    assert batches == [["a cow", "cow", "a"]]

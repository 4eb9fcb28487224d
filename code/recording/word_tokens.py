"""The words of a text, and which of its tokens are theirs.

A word is what stands between spaces, without the punctuation around it; signs that stand alone are
words too. Its tokens are found with whatever tokenizer it is: those that a text up to the end of
the word has more than a text up to its beginning.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PUNCTUATION = ".,;:!?\"'()[]{}…“”‘’"  # may stand around a word without being part of it

Rows = list[list[int]]
Span = tuple[int, int]


@dataclass(frozen=True)
class Words:
    """The words of a text: where they stand in it, and in the row of its tokens.

    row: the token ids of the whole text, as long as it takes, with the marks around it.
    inside: where in the row the text's own tokens are, behind the mark of the start.
    spans: of each word, where it stands in the text.
    tokens: of each word, where in the row its tokens are.
    """

    text: str
    row: list[int]
    inside: Span
    spans: list[Span]
    tokens: list[Span]

    @property
    def words(self) -> list[str]:
        return [self.text[start:end] for start, end in self.spans]


def chunks(text: str) -> list[Span]:
    """Where in a text is something between spaces."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def core(text: str, chunk: Span) -> Span:
    """The part of a chunk that is a word: without the punctuation around it, if there is more."""
    start, end = chunk
    bare = text[start:end].strip(PUNCTUATION)
    if not bare:
        return chunk
    start = text.index(bare, start)
    return start, start + len(bare)


def words_of(texts: Sequence[str], tokenize: Callable[[list[str], int], Rows]) -> list[Words]:
    """The words of each text. `tokenize` makes rows of ids, with room for so many tokens.

    Raises ValueError for a text without words, and where it cannot be told which tokens are a
    word's.
    """
    for text in texts:
        if not text.strip():
            raise ValueError(f"a text must have a word, of which there is relevance; got {text!r}")
    ends = [
        sorted({place for chunk in chunks(text) for place in inner(text, chunk)}) for text in texts
    ]
    beginnings = [text[:end] for text, some in zip(texts, ends, strict=True) for end in some]
    room = 16 + 2 * max(len(text.encode()) for text in texts)
    empty, *rows = tokenize(["", *texts, *beginnings], room)
    wholes, rows = rows[: len(texts)], iter(rows[len(texts) :])
    return [
        aligned(text, whole, dict(zip(some, rows, strict=False)), empty)
        for text, whole, some in zip(texts, wholes, ends, strict=True)
    ]


def inner(text: str, chunk: Span) -> set[int]:
    """Where tokens may part within a chunk, and at its end."""
    return {*core(text, chunk), chunk[1]} - {chunk[0]}


def aligned(text: str, whole: list[int], parts: dict[int, list[int]], empty: list[int]) -> Words:
    """The words of a text, from the tokens of itself, of its beginnings and of the empty text."""
    start = common(whole, empty)
    marks = empty[start:]
    places = {}
    for end, row in parts.items():
        length = unmarked(row, marks)
        if length >= start and row[:length] == whole[:length]:
            places[end] = length
    spans, tokens, before = [], [], start
    for chunk in chunks(text):
        word = core(text, chunk)
        if chunk[1] not in places:
            raise ValueError(
                f"which tokens are those of {text[slice(*word)]!r} cannot be told: the tokenizer "
                f"reads {text!r} otherwise than its beginnings"
            )
        end = places[chunk[1]]
        # Where a sign is in one token with a part of the word, the token is the word's.
        tokens.append((places.get(word[0], before), places.get(word[1], end)))
        spans.append(word)
        before = end
    return Words(text, whole, (start, unmarked(whole, marks)), spans, tokens)


def unmarked(row: list[int], marks: list[int]) -> int:
    """How long a row is without the marks at its end."""
    return next(n for n in range(len(row) + 1) if row[n:] == marks[: len(row) - n])


def common(one: list[int], other: list[int]) -> int:
    """How many ids two rows have in common at their beginnings."""
    same = [first == second for first, second in zip(one, other, strict=False)]
    return same.index(False) if False in same else len(same)

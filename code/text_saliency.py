"""Which words of a text make it similar to a target? Relevance of each word of each text.

    text_relevance(model, texts, targets)        for each text its words, and [target, word]

Targets are directions of the same space: features of pictures, above all. As `relevance_maps` does,
it only reads the network: nothing is left behind, and several threads may explain with one model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from checks import require_differentiable, require_finite, type_name, undisturbed
from clip_ import tokenize
from methods.texts import TEXT_METHODS, TextMethod
from model import CLIP
from objective import target_directions
from recording.encoders import Encoder, unwrapped
from recording.texts import TextTower, text_tower, texts_of, wrong_width
from recording.word_tokens import Words, chunks, core, words_of
from saliency import positive
from siglip import SigLIP
from words import without_word

LEAVE_OUT = "leave out"
TEXTS = 32  # that are read at once
PAIRS = 2048  # of a text and a target, explained at once
VARIANTS = 128  # of texts, encoded at once
WHOLE_PAIRS = 64  # the same, where each has matrices of its own


@dataclass(frozen=True)
class WordRelevance:
    """A text, its words in order and how relevant each is.

    spans: where in the text each word begins and ends.
    relevance: float32 (float64 of a float64 model), neither normalised nor ranked.
    """

    text: str
    words: list[str]
    spans: list[tuple[int, int]]
    relevance: Float[Tensor, "target word"]


def text_relevance(
    model: nn.Module | Encoder,
    texts: str | Sequence[str],
    targets: Float[Tensor, "*text target feature"],
    method: str | None = None,
    *,
    tokenizer: Any = None,
    negative: bool = False,
    start_block: int | None = None,
    scale: float | Float[Tensor, ""] = 1.0,
) -> list[WordRelevance]:
    """Relevance of every word of each text to the cosine of the text with each target.

    model: a CLIP of `clip_.load`, whatever its image tower; a model of open_clip or transformers;
        or the `Encoder` of one (`recording/encoders.py`).
    texts: strings; one string is one text. A word is what stands between spaces, without the
        punctuation around it; the tokens of a word are added up, and marks of the start and the end
        left out.
    targets: features of pictures, or any directions, [K, D] (all of them for every text) or
        [B, K, D] (for each text its own). Their length does not matter.
    method: one of `text_methods()`, by default the first. "leave out" is the difference
        s(text) - s(text without the word), this occurrence of it alone, and encodes a text for
        each word; the others read the text once.
    tokenizer: that of the model, if it is of open_clip (`open_clip.get_tokenizer`) or transformers
        (a tokenizer, or a processor with one); an `Encoder` may know it.
    negative, scale, start_block: as for `relevance_maps`; Grad-ECLIP reads the last eight blocks
        unless told otherwise.

    Returns one `WordRelevance` for each text. Raises TypeError or ValueError on input of wrong
    type, shape, width or value; on a text without words, or with more than the model reads; on a
    method that is not in the table; and where features are not read from one token (averages).
    """
    texts, targets = checked_texts(texts), target_directions(targets)
    factor = positive(scale) * (-1 if negative else 1)
    if targets.ndim == 3 and len(targets) != len(texts):
        raise ValueError(f"got targets for {len(targets)} texts, but {len(texts)} texts")
    name = chosen_method(method, factor, start_block)
    owner = model.model if isinstance(model, Encoder) else unwrapped(model)
    with undisturbed(next(owner.parameters()).device):
        if name == LEAVE_OUT:
            return left_out(model, texts, factor * targets, tokenizer)
        tower = readable(model, tokenizer)
        require_differentiable(tower.model)
        return explained(tower, texts, factor * targets, TEXT_METHODS[name], start_block)


def text_methods() -> list[str]:
    """The names of the methods; the first is the default."""
    return [*TEXT_METHODS, LEAVE_OUT]


def checked_texts(texts: str | Sequence[str]) -> list[str]:
    texts = [texts] if isinstance(texts, str) else list(texts)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"texts must be strings; got {type_name(text)}")
        if not text.strip():
            raise ValueError(f"a text must have a word, of which there is relevance; got {text!r}")
    if not texts:
        raise ValueError("there must be at least one text")
    return texts


def chosen_method(method: str | None, factor: float, start_block: int | None) -> str:
    """The name of a method that takes what is asked of it."""
    name = text_methods()[0] if method is None else method
    if not isinstance(name, str) or name not in text_methods():
        known = ", ".join(text_methods())
        raise ValueError(f"unknown method {method!r}; the methods for texts are {known}")
    if name == LEAVE_OUT and start_block:
        raise ValueError("leave out reads no blocks, so start_block means nothing to it")
    if name != LEAVE_OUT and not TEXT_METHODS[name].of_targets and factor != 1:
        raise ValueError(
            f"{name} is the same for all targets, so negative and scale mean nothing to it"
        )
    return name


def readable(model: nn.Module | Encoder, tokenizer: Any) -> TextTower:
    """A model's text tower, with its tokenizer. TypeError if that is not known."""
    if isinstance(model, Encoder):
        model, tokenizer = model.model, tokenizer or model.tokenizer
    if tokenizer is None and isinstance(unwrapped(model), CLIP | SigLIP):
        tokenizer = tokenize
    if tokenizer is None:
        raise TypeError(
            "to tell words from tokens the model's tokenizer is needed: give tokenizer=, or an "
            "Encoder with one (from_open_clip(model, preprocess, tokenizer), "
            "from_transformers(model, processor))"
        )
    return text_tower(model, tokenizer)


def explained(
    tower: TextTower, texts: list[str], targets: Tensor, method: TextMethod, start_block: int
) -> list[WordRelevance]:
    words = words_of(texts, tower.uncut)
    found: dict[int, WordRelevance] = {}
    for part in alike(words):
        some = [words[place] for place in part]
        read = texts_of(tower, some)
        directions = for_each(targets, part, read.encoder.weight)
        pairs = (WHOLE_PAIRS if method.whole else PAIRS) // len(part)
        asked = directions if method.of_targets else directions[:, :1]
        relevance = torch.cat(
            [
                method.relevance(method.record(read, few, start_block))[..., -read.length :]
                for few in asked.split(max(1, pairs), 1)
            ],
            1,
        ).expand(-1, directions.shape[1], -1)
        for place, one, of_tokens in zip(part, some, relevance, strict=True):
            found[place] = of_words(one, of_tokens)
    return [found[place] for place in range(len(texts))]


def alike(words: list[Words]) -> Iterator[list[int]]:
    """The places of texts with equally many tokens, not too many of them together."""

    def inside(place: int) -> tuple[int, int]:
        return words[place].inside

    for _, places in groupby(sorted(range(len(words)), key=inside), inside):
        places = list(places)
        yield from (places[first : first + TEXTS] for first in range(0, len(places), TEXTS))


def for_each(
    targets: Tensor, part: list[int], weight: Tensor
) -> Float[Tensor, "text target feature"]:
    """Directions of some texts, on the device of the model, in float32 at least."""
    own = targets[part] if targets.ndim == 3 else targets.expand(len(part), -1, -1)
    return own.to(weight.device, torch.promote_types(weight.dtype, torch.float32))


def of_words(words: Words, relevance: Float[Tensor, "target token"]) -> WordRelevance:
    """The tokens of each word added up."""
    require_finite(
        relevance, "relevances (too large numbers for the model's precision: try model.float())"
    )
    before = words.inside[0]
    sums = [relevance[:, first - before : last - before].sum(1) for first, last in words.tokens]
    return WordRelevance(words.text, words.words, words.spans, torch.stack(sums, 1))


@torch.no_grad()
def left_out(
    model: nn.Module | Encoder, texts: list[str], targets: Tensor, tokenizer: Any
) -> list[WordRelevance]:
    """s(text) - s(text without the word), of each word."""
    spans = [[core(text, chunk) for chunk in chunks(text)] for text in texts]
    variants = [
        [text, *(without_word(text, number) for number in range(len(some)))]
        for text, some in zip(texts, spans, strict=True)
    ]
    features = unit_features(model, tokenizer, texts, [one for some in variants for one in some])
    if features.shape[-1] != targets.shape[-1]:
        raise ValueError(wrong_width(features.shape[-1], targets.shape[-1]))
    found = []
    parts = features.split([len(some) for some in variants])
    for place, (text, some, unit) in enumerate(zip(texts, spans, parts, strict=True)):
        (directions,) = for_each(targets, [place], unit)
        words = [text[start:end] for start, end in some]
        found.append(WordRelevance(text, words, some, directions @ (unit[:1] - unit[1:]).T))
    return found


def unit_features(
    model: nn.Module | Encoder, tokenizer: Any, texts: list[str], variants: list[str]
) -> Float[Tensor, "variant feature"]:
    """Of the texts' variants, by whatever encodes texts. ValueError if a text is cut, as far as its
    tokens are known.
    """
    if isinstance(model, Encoder) and not (tokenizer or model.tokenizer) and model.encode_texts:
        encode = model.encode_texts
    else:
        tower = readable(model, tokenizer)
        words, encode = words_of(texts, tower.uncut), tower.features
        for part in alike(words):
            texts_of(tower, [words[place] for place in part])
    parts = range(0, len(variants), VARIANTS)
    return target_directions(
        torch.cat([encode(variants[first : first + VARIANTS]) for first in parts])
    )

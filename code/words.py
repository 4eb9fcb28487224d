"""The words of a text, and the direction in feature space that each of them adds."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from checks import type_name, undisturbed
from objective import target_directions
from recording.encoders import Encoder
from recording.word_tokens import PUNCTUATION

Word = str | int


def without_word(text: str, word: Word) -> str:
    """`text` without one of its words; the punctuation around it stays.

    word: a word, or several in a row, taken out wherever they stand, in any case ("Cow" is "cow");
        or the position of one word, counted from 0 (negative: from the end).

    A word is what stands between spaces: no part of that, and no pattern. Raises ValueError,
    naming the words there are, if the text does not have it.
    """
    if not isinstance(text, str):
        raise TypeError(f"a text is a string; got {type_name(text)}")
    if isinstance(word, bool) or not isinstance(word, Word):
        raise TypeError(f"a word is a string, or its position in the text; got {word!r}")
    tokens = text.split()
    if isinstance(word, int):
        if not -len(tokens) <= word < len(tokens):
            raise ValueError(f"no word at position {word}: the words are {tokens}")
        tokens[word] = _rest(tokens[word], tokens[word].strip(PUNCTUATION).casefold()) or ""
        return " ".join(filter(None, tokens))
    wanted = word.casefold().split()
    kept, place = [], 0
    while place < len(tokens):
        run = tokens[place : place + len(wanted)]
        rests = [_rest(token, one) for token, one in zip(run, wanted, strict=False)]
        if wanted and len(rests) == len(wanted) and None not in rests:
            kept += filter(None, rests)
            place += len(wanted)
        else:
            kept.append(tokens[place])
            place += 1
    if kept == tokens:
        raise ValueError(f"{word!r} is not a word of this text; its words are {tokens}")
    return " ".join(kept)


def _rest(token: str, word: str) -> str | None:
    """What is left of a token without its word; None if it holds another word."""
    if token.casefold() == word:
        return ""
    core = token.strip(PUNCTUATION)
    return token.replace(core, "", 1) if core and core.casefold() == word else None


def word_directions(
    clip_model: nn.Module | Encoder,
    clip_tokenizer: Callable[[list[str]], Tensor] | None,
    text: str,
    words: Sequence[Word],
) -> Float[Tensor, "word feature"]:
    """For each word, t(text) - t(text without it), t unit features: what the word adds.

    The similarity of an image with this direction is s(text) - s(text without the word). The empty
    word stands for the whole text, t(text). All texts are encoded in one batch, by an `Encoder`
    with its own tokenizer.
    """
    texts = [text] + [without_word(text, word) for word in words if not is_whole(word)]
    encode, weight = text_encoder(clip_model, clip_tokenizer)
    with undisturbed(weight.device), torch.no_grad():
        features = target_directions(encode(texts))
    whole, without = features[0], iter(features[1:])
    return torch.stack([whole if is_whole(word) else whole - next(without) for word in words])


def text_encoder(
    clip_model: nn.Module | Encoder, clip_tokenizer: Callable[[list[str]], Tensor] | None
) -> tuple[Callable[[list[str]], Tensor], Tensor]:
    """What makes features of texts, and a parameter of it. TypeError if there is none."""
    if isinstance(clip_model, Encoder) and clip_model.encode_texts is not None:
        return clip_model.encode_texts, clip_model.weight
    if not hasattr(clip_model, "encode_text"):
        raise TypeError(f"words are read by a whole CLIP; got {type_name(clip_model)}")
    weight = next(clip_model.parameters())
    return lambda texts: clip_model.encode_text(clip_tokenizer(texts)), weight


def is_whole(word: Word) -> bool:
    """Whether it stands for the whole text: it is empty."""
    return isinstance(word, str) and not word

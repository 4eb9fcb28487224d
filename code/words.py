"""The words of a text, and the direction in feature space that each of them adds."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

PUNCTUATION = ".,;:!?\"'()[]{}…“”‘’"  # may stand around a word without being part of it

Word = str | int


def without_word(text: str, word: Word) -> str:
    """`text` without one of its words; the punctuation around it stays.

    word: a word, or several in a row, taken out wherever they stand, in any case ("Cow" is "cow");
        or the position of one word, counted from 0 (negative: from the end).

    A word is what stands between spaces: no part of that, and no pattern. Raises ValueError,
    naming the words there are, if the text does not have it.
    """
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


@torch.no_grad()
def word_directions(
    clip_model: nn.Module,
    clip_tokenizer: Callable[[list[str]], Tensor],
    text: str,
    words: Sequence[Word],
) -> Float[Tensor, "word feature"]:
    """For each word, t(text) - t(text without it), t unit features: what the word adds.

    The similarity of an image with this direction is s(text) - s(text without the word). The empty
    word stands for the whole text, t(text). All texts are encoded in one batch.
    """
    texts = [text] + [without_word(text, word) for word in words if word != ""]
    tokens = clip_tokenizer(texts).to(clip_model.positional_embedding.device)
    features = clip_model.encode_text(tokens)
    features = F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
    whole, without = features[0], iter(features[1:])
    return torch.stack([whole if word == "" else whole - next(without) for word in words])

"""A text tower, read as an image encoder is, by the token that its features are read from.

That token, of CLIP's the end of the text, of SigLIP's the last, is found out: behind the last block
the features depend on it alone. In what is recorded it stands first, as CLS does, then marks and
padding, then the tokens of the text: so the methods for images are the methods for texts.

`record_readers`    the attention of that token in each block, with the gradient of the last.
`record_direct`, `record_path`   the same, each with the gradient of what its heads write.
`record_similarity` of the last blocks, how similar the query of that token is to each key it sees.
`record_matrices`   whole matrices of all blocks, each with its own gradient.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import ne
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from checks import is_plain, type_name
from model import CLIP
from objective import objective_slopes
from recording import (
    Recording,
    askers,
    first_block,
    gradients_of,
    last_gradient,
    of_cls,
    pooled,
)
from recording.encoders import Encoder, transformers_tokens, unwrapped
from recording.encoders import pooled as features_in
from recording.others import similarity
from recording.runs import Layer, OtherPooling
from recording.streams import Chain, written_pairs
from recording.word_tokens import Rows, Words
from siglip import SigLIP

Order = Int[Tensor, " token"]
LAST_BLOCKS = 8  # in the published code of Grad-ECLIP for texts


@dataclass(frozen=True)
class TextTower:
    """What makes features of texts, step by step.

    model: whatever holds the parameters.
    tokens: texts to what `encode` takes, as "input_ids" and more.
    uncut: texts to rows of ids, with room for so many of them.
    encode: of what `tokens` made to features [text, feature].
    """

    model: nn.Module
    tokens: Callable[[Sequence[str]], Mapping[str, Tensor]]
    uncut: Callable[[Sequence[str], int], Rows]
    encode: Callable[..., Float[Tensor, "text feature"]]

    def features(self, texts: Sequence[str]) -> Float[Tensor, "text feature"]:
        return self.encode(**self.tokens(texts))


def text_tower(model: Any, tokenizer: Any) -> TextTower:
    """Of a CLIP of ours, a model of open_clip or of transformers; TypeError if there is none."""
    bare = unwrapped(model)
    if not isinstance(bare, nn.Module):
        raise TypeError(f"texts are read by a whole CLIP; got {type_name(model)}")
    device = next(bare.parameters()).device
    if hasattr(bare, "get_text_features"):
        return of_transformers(bare, tokenizer, device)
    if not hasattr(bare, "encode_text"):
        raise TypeError(f"texts are read by a whole CLIP; got {type_name(bare)}")

    def tokens(texts: Sequence[str]) -> dict[str, Tensor]:
        if not isinstance(bare, CLIP | SigLIP):
            return {"input_ids": tokenizer(list(texts)).to(device)}
        try:
            ids = tokenizer(list(texts), bare.context_length)
        except RuntimeError as error:  # of clip_.tokenize, which names the text
            raise ValueError(
                f"the model reads no more than {bare.context_length} tokens of a text ({error})"
            ) from None
        # Where the attention is causal, what follows the end is not read.
        if isinstance(bare, CLIP) and is_plain(bare.transformer):
            ids = ids[:, : int(ids.argmax(1).max()) + 1]
        return {"input_ids": ids.to(device)}

    def uncut(texts: Sequence[str], room: int) -> Rows:
        return tokenizer(list(texts), room).tolist()

    return TextTower(bare, tokens, uncut, lambda input_ids: bare.encode_text(input_ids))


def of_transformers(model: nn.Module, processor: Any, device: torch.device) -> TextTower:
    tokenizer = getattr(processor, "tokenizer", processor)

    def uncut(texts: Sequence[str], room: int) -> Rows:
        # Of the tokenizer's own padding there may be none: rows end as those of `tokens` do.
        return tokenizer(list(texts), padding="max_length", max_length=room)["input_ids"]

    return TextTower(
        model,
        lambda texts: dict(transformers_tokens(model, tokenizer, texts).to(device)),
        uncut,
        lambda **tokens: features_in(model.get_text_features(**tokens)),
    )


@dataclass(frozen=True)
class Texts:
    """Texts of equally many tokens at the same places, as a tower takes them."""

    encoder: Encoder  # of token ids
    ids: Int[Tensor, "text token"]
    inside: tuple[int, int]  # where the texts' own tokens are

    def order(self, reader: int, count: int) -> Order:
        """Of `count` tokens, the order in which they are recorded."""
        start, end = self.inside
        more = count - self.ids.shape[1]
        if more not in (0, 1) or (more and reader != count - 1):  # CoCa's own token is the last
            raise ValueError(
                f"of {self.ids.shape[1]} tokens of a text this model makes {count}: which of them "
                "are those of its words cannot be told"
            )
        if start <= reader < end:
            raise ValueError(
                "the features of a text are read at one of its own tokens, not at a mark around "
                "them: it holds the mark of the end in letters, or this model reads no mark"
            )
        outside = [token for token in range(count) if not start <= token < end]
        return torch.tensor(
            [reader, *(one for one in outside if one != reader), *range(start, end)]
        )

    @property
    def length(self) -> int:
        return self.inside[1] - self.inside[0]


def texts_of(tower: TextTower, words: Sequence[Words]) -> Texts:
    """Texts whose tokens stand at the same places. ValueError if a text is cut."""
    texts = [one.text for one in words]
    tokens = tower.tokens(texts)
    ids = tokens["input_ids"]
    for row, one in zip(ids.tolist(), words, strict=True):
        if one.inside[1] > len(row) or any(map(ne, row, one.row)):  # one may have more padding
            raise ValueError(
                f"the model reads no more than {len(row)} tokens of this text, marks included, so "
                f"not all of its words: shorten it: {one.text!r}"
            )
    rest = {name: tensor for name, tensor in tokens.items() if name != "input_ids"}
    encode = tower.encode
    encoder = Encoder(tower.model, lambda ids: encode(input_ids=ids, **rest))
    return Texts(encoder, ids, words[0].inside)


class TextRun(Chain):
    """A run of a text tower, and which token its features are read from."""

    def __init__(self, texts: Texts):
        super().__init__(texts.encoder, texts.ids, whole=True)
        self.texts = texts

    def read_by_one(self, directions: Tensor) -> Float[Tensor, "text feature"]:
        """The features with their graph from the last attention on, `self.leaf`. Sets `reader`,
        and the rows of all layers to what that token attends to.

        Raises ValueError where features are read from more tokens than one.
        """
        pooling, features, asks = pooled(self)
        if pooling == "probe":
            raise ValueError(
                "the text features of this model are read by an attention pool, which is not read"
            )
        self.settle(asks, features, directions)
        for layer in self.layers:
            layer.rows = self.row(layer)
        return features

    def settle(self, asks: Tensor, features: Tensor, directions: Tensor) -> None:
        if features.shape[-1] != directions.shape[-1]:
            raise ValueError(wrong_width(features.shape[-1], directions.shape[-1]))
        if asks.sum() != 1:
            raise ValueError(
                f"the features of this model are read from {int(asks.sum())} tokens of a text, as "
                "averages are, not from one that reads the others: leave out explains it"
            )
        self.reader = int(asks.nonzero())
        self.order = self.texts.order(self.reader, len(asks)).to(asks.device)

    def row(self, layer: Layer) -> Float[Tensor, "text head 1 token"]:
        return layer.attention.probabilities()[:, :, [self.reader]]

    def cut(self, stream: Tensor, queries: int | None) -> Tensor:
        """The reader of a stream, in the place of CLS."""
        if queries is None:
            return stream
        return stream.narrow(self.axis(stream), self.reader, queries)

    def follow(
        self, index: int, queries: int | None, forward: Callable[..., Any], *given: Any
    ) -> Any:
        """Behind the last block the reader stands among the other tokens, as they were before it:
        the features are not read from these.
        """
        output = super().follow(index, queries, forward, *given)
        if queries is None or index < len(self.blocks) - 1:
            return output
        block = self.blocks[index]
        others = self.calls[block].stream
        place = torch.tensor([self.reader], device=others.device)
        return self.returned(block, others.index_copy(self.axis(others), place, self.end))

    def recording(
        self, pairs: Iterator[tuple[Tensor, Tensor | None]], directions: Tensor
    ) -> Recording:
        """Rows, their tokens in order."""
        pairs = (
            (attention[..., self.order], gradient[..., self.order]) for attention, gradient in pairs
        )
        length = self.texts.length
        return of_cls(pairs, directions, (1, length), len(self.order) - length)


def record_readers(texts: Texts, directions: Tensor, start_block: int | None) -> Recording:
    run = TextRun(texts)
    features = run.read_by_one(directions)
    first = first_block(start_block, len(run.layers))
    last = run.layers[-1]
    gradient = last_gradient(texts.encoder, run, last, features, directions)
    gradient = gradient[:, :, :, [run.reader]]
    return run.recording(
        ((layer.rows, gradient) for layer in reversed(run.layers[first:])), directions
    )


def record_similarity(texts: Texts, directions: Tensor, start_block: int | None) -> Recording:
    run, attentions, gradients = graph_of(texts, directions)
    first = first_block(start_block, len(attentions), LAST_BLOCKS)
    seen = (attentions[-1][:, :, run.reader] > 0).flatten(0, 1).any(0)[run.order]
    seen[-texts.length :] = True  # where attention is too little for the precision
    run.order = run.order[seen]
    heads = (
        (layer.attention.query[:, :, [run.reader]], layer.attention.key) for layer in run.layers
    )
    pairs = [
        (similarity(query.detach(), key.detach()), gradient[:, :, :, [run.reader]])
        for (query, key), gradient in zip(heads, gradients, strict=True)
    ]
    return run.recording(reversed(pairs[first:]), directions)


def record_direct(texts: Texts, directions: Tensor, start_block: int | None) -> Recording:
    return record_written(texts, directions, start_block, True)


def record_path(texts: Texts, directions: Tensor, start_block: int | None) -> Recording:
    return record_written(texts, directions, start_block, False)


def record_written(
    texts: Texts, directions: Tensor, start_block: int | None, direct: bool
) -> Recording:
    run = TextRun(texts)
    features = run.read_by_one(directions).detach()
    first = first_block(start_block, len(run.layers))
    try:
        pairs = written_pairs(run, texts.encoder, features, directions, first, direct)
    except OtherPooling:
        raise ValueError(
            "the blocks of this text tower do not run again on the one token that features are "
            "read from, as direct and path need it"
        ) from None
    return run.recording(pairs, directions)


def record_matrices(texts: Texts, directions: Tensor, start_block: int | None) -> Recording:
    run, attentions, gradients = graph_of(texts, directions)
    pairs = [
        tuple(one[..., run.order, :][..., run.order] for one in pair)
        for pair in zip(attentions, gradients, strict=True)
    ][first_block(start_block, len(attentions)) :]
    reads = directions.new_zeros(len(run.order))
    reads[0] = 1
    length = texts.length
    return Recording(reversed(pairs), reads, reads, (1, length), len(reads) - length)


def graph_of(texts: Texts, directions: Tensor) -> tuple[TextRun, list[Tensor], list[Tensor]]:
    """A run, whose reader is settled; the attention of all blocks, and the gradients at it."""
    run = TextRun(texts)
    features, attentions = run.graph()
    run.settle(askers(features, attentions[-1]), features, directions)
    slopes = objective_slopes(features.detach(), directions)
    found = gradients_of(texts.encoder)(features, attentions, slopes)
    return run, [one.detach() for one in attentions], [one.transpose(0, 1) for one in found]


def wrong_width(width: int, given: int) -> str:
    return f"target features must be {width} wide for this model; got {given}"

"""Anybody's blocks with other answers of their attention, and their tokens read as CLS is.

What a network makes of CLS behind its last block it can make of any token: each is put in the place
of CLS, as the only token of an image.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from objective import objective_slopes
from recording import are_same, gradients_of
from recording.attention import Answer, Attention, Heads, by_values
from recording.encoders import Encoder
from recording.runs import OtherPooling
from recording.shortcuts import at_attention
from recording.streams import Chain, NotAdding

Features = Float[Tensor, "image token feature"]


class Tokens(Chain):
    def answered_features(
        self, features: Float[Tensor, "image feature"], answer: Answer
    ) -> Features:
        """As `shortcuts.answered_features`. OtherPooling if the network does not read CLS alone."""
        return self.read_tokens(features, len(self.layers) - 1, answer, self.last_end)

    def surgery_features(self, features: Float[Tensor, "image feature"], first: int) -> Features:
        """As `shortcuts.surgery_features`, likewise."""
        return self.read_tokens(features, first, by_values, self.all_added)

    def read_tokens(
        self,
        features: Float[Tensor, "image feature"],
        first: int,
        answer: Answer,
        end: Callable[[], Tensor],
    ) -> Features:
        """Features of the tokens of the stream `end()`, behind blocks from `first` on whose
        attention has another answer, but to CLS: so those of CLS must be the features.
        """
        self.links = []
        self.replaces = {block: partial(self.passed, block) for block in self.blocks}
        for index, block in enumerate(self.blocks[first:], first):
            self.replaces[block] = partial(self.run_alone, index, end)
        with torch.no_grad():
            try:
                found = self.encoded(partial(self.answer_others, answer), self.count * self.tokens)
            except (RuntimeError, IndexError) as error:  # as averages have it
                raise OtherPooling from error
        found = found.unflatten(0, (self.count, self.tokens))
        if not are_same(found[:, 0], features):
            raise OtherPooling
        return found

    def run_alone(
        self,
        index: int,
        end: Callable[[], Tensor],
        forward: Callable[..., Any],
        _arguments: tuple,
        _named: dict,
    ) -> Any:
        """A block on its stream of the first run; the last returns the tokens of `end()`."""
        block = self.blocks[index]
        output = self.run_link(index, self.calls[block].stream, forward)
        if index < len(self.blocks) - 1:
            return output
        stream = end()
        if self.axis(stream) == 1:
            return self.returned(block, stream.flatten(0, 1).unsqueeze(1))
        return self.returned(block, stream.transpose(0, 1).flatten(0, 1).unsqueeze(0))

    def answer_others(self, answer: Answer, attention: Attention) -> Heads:
        link = self.links[-1]
        cls = self.layers[link.index].rows @ attention.value
        link.leaf = torch.cat([cls, answer(attention)[:, :, 1:]], 2)
        return link.leaf.clone()

    def last_end(self) -> Tensor:
        return self.links[-1].end

    def all_added(self) -> Tensor:
        """The stream before the first block and what the attention of all adds to it; of CLS, the
        end. NotAdding if a block does not add alone.
        """
        total = self.calls[self.blocks[self.links[0].index]].stream
        for link in self.links:
            if not (link.adds and link.added and self.goes_on(link.index, link.end)):
                raise NotAdding(link.index)
            total = total + link.added[0]
        axis = self.axis(total)
        others = total.narrow(axis, 1, self.tokens - 1)
        return torch.cat([self.cut(self.last_end(), 1), others], axis)

    def goes_on(self, index: int, end: Tensor) -> bool:
        """Whether the next block read, as CLS, this end of a block."""
        if index == len(self.blocks) - 1:
            return True
        following = self.calls[self.blocks[index + 1]].stream
        return are_same(*(self.cut(one, 1).flatten(0, 1) for one in (end, following)))

    def own_scores(
        self, encoder: Encoder, directions: Tensor, first: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `shortcuts.own_scores`, the last block first; with the rows of CLS alone."""
        for index in range(len(self.layers) - 1, first - 1, -1):
            self.links = []
            self.replaces = {block: partial(self.passed, block) for block in self.blocks}
            self.replaces[self.blocks[index]] = partial(self.mean_of_tokens, index)
            with torch.no_grad():
                features = self.encoded(self.answer_leaf)
            slopes = objective_slopes(features.detach(), directions)
            (slopes,) = gradients_of(encoder)(features, (self.links[0].leaf,), slopes)
            layer = self.layers[index]
            yield layer.rows, at_attention(slopes, layer.attention.value)

    def mean_of_tokens(
        self, index: int, forward: Callable[..., Any], _arguments: tuple, _named: dict
    ) -> Any:
        block = self.blocks[index]
        self.run_link(index, self.calls[block].stream, forward)
        end = self.last_end()
        return self.returned(block, end.mean(self.axis(end), keepdim=True))

    def answer_leaf(self, attention: Attention) -> Heads:
        link = self.links[-1]
        link.leaf = attention.answer().requires_grad_()
        torch.set_grad_enabled(True)  # until the run ends
        return link.leaf.clone()

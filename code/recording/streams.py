"""What the heads of every block write to CLS, and how much of it is in a target's favour.

A block adds to the stream of CLS what its heads read, Σ_h A_l[h, 0, :] V_l,h W_l,h, and the
features are read from the end of that stream. So a gradient at the row A_l[h, 0, :] is
V_l,h W_l,h g_l, where g_l is a gradient at the stream:

`record_direct`   g_l = g, that at the end of the stream: what was written is read at once.
`record_path`     g carried back along CLS alone, by whatever its blocks do to it besides attending.

Neither goes back through the network. Of a ViT of ours `shortcuts.py` does it; of anybody's, a
`Chain` runs all blocks again on CLS alone. Where an attention pool reads the features, it is the
only layer, with the gradient at its own answer.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from objective import objective_slopes
from recording import (
    Recording,
    are_same,
    first_block,
    gradients_of,
    is_ours_as_written,
    of_cls,
    patches,
    record_readers,
    shortcuts,
)
from recording.attention import Attention, Heads
from recording.encoders import Encoder, Images
from recording.runs import (
    Call,
    OtherPooling,
    Run,
    TooFewTokens,
    first_of,
    forward_on,
    require_graph,
)
from recording.shortcuts import at_attention


def record_direct(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
) -> Recording:
    return record_cls(encoder, images, directions, start_block, shortcuts.written, True)


def record_path(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
) -> Recording:
    return record_cls(encoder, images, directions, start_block, shortcuts.written_on, False)


def record_cls(
    encoder: Encoder,
    images: Images,
    directions: Tensor,
    start_block: int | None,
    shortcut: Callable[..., Iterator[tuple[Tensor, Tensor]]],
    direct: bool,
) -> Recording:
    if is_ours_as_written(encoder):
        first = first_block(start_block, len(encoder.model.transformer.resblocks))
        pairs = shortcut(encoder.model, images, directions, first)
        return of_cls(pairs, directions, encoder.model.grid(images))
    chain = None if encoder.pooling == "probe" else Chain(encoder, images)
    features = chain and chain.read()
    if chain is None or chain.probe:
        return record_readers(encoder, images, directions, start_block)
    first = first_block(start_block, len(chain.layers))
    pairs = written_pairs(chain, encoder, features, directions, first, direct)
    encoder.pooling = "CLS"
    return of_cls(pairs, directions, *patches(encoder, chain))


def written_pairs(
    chain: "Chain", encoder: Encoder, features: Tensor, directions: Tensor, first: int, direct: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of the blocks from `first` on, last first, the row of CLS and the gradient at it."""
    again = chain.features_of_cls(features, first, direct)
    require_graph(again)
    slopes = objective_slopes(features, directions)
    each = gradients_of(encoder)
    if direct:
        chain.require_read_at_end(again)
        (slope,) = each(again, (chain.end,), slopes)
        found = (each(link.written(), (link.leaf,), slope)[0] for link in reversed(chain.links))
    else:
        found = reversed(each(again, [link.leaf for link in chain.links], slopes))
    return (
        (layer.rows, at_attention(slope[..., :1, :], layer.attention.value))
        for layer, slope in zip(reversed(chain.layers[first:]), found, strict=True)
    )


class NotAdding(ValueError):
    """A block does more to the stream than to add to it."""

    def __init__(self, block: int):
        super().__init__(
            "direct and CLIP Surgery need blocks that add to the stream what their attention reads "
            f"and do nothing else to it; block {block} of this model is none: path takes it"
        )


class Link:
    """One block in a second run: its stream, and what is added to that.

    leaf: what the attention answered CLS.
    end: the stream behind the block.
    added: what was added to the stream after the attention was asked, in order.
    """

    def __init__(self, index: int, stream: Tensor):
        self.index, self.stream = index, stream
        self.leaf: Heads | None = None
        self.end: Tensor | None = None
        self.added: list[Tensor] = []
        self.adds = True

    def note(self, first: Tensor, second: Tensor, total: Tensor) -> None:
        """A sum in the block: the stream goes on in it, if it is one of the two."""
        for stream, other in ((first, second), (second, first)):
            if stream is self.stream:
                self.stream = total
                if self.leaf is not None:
                    self.added.append(other)
                return

    def written(self) -> Tensor:
        """What the attention adds to the stream. ValueError if that cannot be told: the block does
        not add to the stream alone.
        """
        if not (self.adds and self.added and depends(self.added[0], self.leaf)):
            raise NotAdding(self.index)
        return self.added[0]


class Chain(Run):
    """A run whose blocks can run once more, on CLS alone: each in place of its attention takes what
    that answered CLS in the first run, so that there is a gradient at each answer.

    Blocks that do not run on one token (with rotary embeddings) run on all, whose attention is
    answered as before: only CLS has a gradient.
    """

    def forget(self, attention: Attention) -> None:
        attention.query = attention.key = None

    def keep(self, member: nn.Module, call: Call) -> None:
        self.calls[member] = call

    def features_of_cls(self, features: Tensor, first: int, parted: bool = False) -> Tensor:
        """The features, from the answers of the blocks from `first` on. OtherPooling if they are
        not those of CLS. `parted`: `self.end`, what follows the last block, is a leaf.
        """
        self.parted = parted
        try:
            again = self.run_again(first, 1)
        except TooFewTokens:
            again = self.run_again(first, None)
            (slope,) = torch.autograd.grad(
                again.sum(), self.end, retain_graph=True, materialize_grads=True
            )
            if slope.narrow(self.axis(self.end), 1, self.tokens - 1).any():
                raise OtherPooling from None
        if not are_same(again.detach(), features):
            raise OtherPooling
        return again

    def require_read_at_end(self, features: Tensor) -> None:
        """ValueError if features with a parted graph are read from the stream of earlier blocks."""
        leaves = [link.leaf for link in self.links]
        slopes = torch.autograd.grad(features.sum(), leaves, retain_graph=True, allow_unused=True)
        if any(slope is not None for slope in slopes):
            raise ValueError(
                "direct reads what heads write at the end of the last block, and the features of "
                "this model are read from earlier blocks too: path takes it"
            )

    @property
    def blocks(self) -> list[nn.Module]:
        blocks = [layer.member for layer in self.layers]
        if None in blocks:
            raise ValueError(
                "the blocks of this model are no list of modules, so they cannot run again"
            )
        return blocks

    def run_again(self, first: int, queries: int | None) -> Tensor:
        self.links: list[Link] = []
        self.replaces = {block: partial(self.passed, block) for block in self.blocks[:first]}
        for index, block in enumerate(self.blocks[first:], first):
            self.replaces[block] = partial(self.follow, index, queries)
        with torch.no_grad():
            try:
                return self.encoded(partial(self.answer_cls, queries))
            except (RuntimeError, ValueError, IndexError) as error:
                if queries is None:
                    raise
                raise TooFewTokens from error

    def follow(
        self,
        index: int,
        queries: int | None,
        forward: Callable[..., Any],
        arguments: tuple,
        named: dict,
    ) -> Any:
        """A block on the end of the one before; the first on its stream of the first run."""
        block = self.blocks[index]
        if self.links:
            stream, before = first_of(arguments, named), self.links[-1]
            before.adds &= stream is before.end
        else:
            stream = self.cut(self.calls[block].stream, queries)
        output = self.run_link(index, stream, forward)
        self.end = self.links[-1].end
        if self.parted and block is self.blocks[-1]:
            self.end = self.end.detach().requires_grad_()
            return self.returned(block, self.end)
        return output

    def run_link(self, index: int, stream: Tensor, forward: Callable[..., Any]) -> Any:
        link, call = Link(index, stream), self.calls[self.blocks[index]]
        self.links.append(link)
        self.attentions.added = link.note
        output = forward_on(stream, call, forward)
        self.attentions.added = None
        link.end = output if call.returned is None else output[0]
        link.adds = link.end is link.stream
        return output

    def answer_cls(self, queries: int | None, attention: Attention) -> Heads:
        link = self.links[-1]
        layer = self.layers[link.index]
        link.leaf = (layer.rows @ layer.attention.value).requires_grad_()
        if queries is None:
            with torch.no_grad():
                others = attention.answer()[:, :, 1:]
        torch.set_grad_enabled(True)  # until `run_again` ends
        return link.leaf.clone() if queries else torch.cat([link.leaf, others], 2)


def depends(output: Tensor, leaf: Tensor) -> bool:
    if not output.requires_grad:
        return False
    (slope,) = torch.autograd.grad(output.sum(), leaf, retain_graph=True, allow_unused=True)
    return slope is not None

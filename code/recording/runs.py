"""Run anybody's network, unchanged, and read its attention.

A `Run` works on twins of the network's modules (`twins.py`), so nothing is set on the network
itself. The network runs once without autograd while each attention is seen (`attention.py`); then
only what follows the last attention runs again, from a leaf in the place of its answer, and is
differentiated for all targets at once. What the features are read from, the pooling, is found out:

CLS      the first token alone. The last block runs again on that token, and gives the features of
         the whole run; otherwise it is not this.
probe    an attention behind the blocks, whose queries are not the tokens (SigLIP, CoCa).
average  several tokens.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from checks import require_derivatives, type_name
from recording.attention import Answer, Attention, Attentions, Heads, seen
from recording.encoders import Encoder, Images
from recording.twins import follow, twins

BY_HAND = (
    "this model computes its attention step by step, where it cannot be read; let it call the "
    "fused kernel: model.set_attn_implementation('sdpa') in transformers, and, before timm makes a "
    "model, timm.layers.set_fused_attn(True)"
)
IN_WINDOWS = (
    "this model attends within windows of an image: no token reads them all, so there is no map; "
    "explain one whose tokens all attend to each other, or a convolutional one"
)


class NoAttention(ValueError):
    """The network does not attend: it is a convolutional one."""


class OtherPooling(ValueError):
    """The features of a network are not read from where a method needs them to be."""


class TooFewTokens(Exception):
    """A network does not run on from the first token alone."""


@dataclass
class Layer:
    """One attention of a run: `rows` is what its first query attends to."""

    member: nn.Module | None  # of a list of modules, in which it ran
    attention: Attention
    rows: Float[Tensor, "image head 1 token"]


@dataclass
class Call:
    """How a member of a list of modules was called, and whether it returned a tuple."""

    arguments: tuple
    named: dict[str, Any]
    returned: int | None  # the length of a tuple

    @property
    def stream(self) -> Tensor:
        return first_of(self.arguments, self.named)


class Run:
    """One run of an encoder over images; `whole`: all queries of all layers will be asked for."""

    def __init__(self, encoder: Encoder, images: Images, whole: bool = False):
        of = twins(encoder.model)
        self.encode, self.images, self.whole = follow(encoder.encode, of), images, whole
        self.count = image_count(images)
        self.layers: list[Layer] = []
        self.probe: Layer | None = None
        self.calls: dict[nn.Module, Call] = {}
        self.inside: list[nn.Module] = []
        self.siblings: dict[nn.Module, list[nn.Module]] = {}
        self.replaces: dict[nn.Module, Any] = {}
        for module in list(of.values()):
            if isinstance(module, nn.ModuleList | nn.Sequential):
                members = list(module)
                for member in members:
                    if not isinstance(member, torch.jit.ScriptModule):
                        self.watch(member, members)
        self.attentions: Attentions | None = None

    def watch(self, member: nn.Module, siblings: list[nn.Module]) -> None:
        if member not in self.siblings:
            self.siblings[member] = siblings
            member.forward = partial(self.call, member, member.forward)

    def call(self, member: nn.Module, forward, *arguments, **named):
        """In the place of a member's `forward`, within whatever hooks it has."""
        if member in self.replaces:
            return self.replaces[member](forward, arguments, named)
        before = len(self.layers)
        self.inside.append(member)
        try:
            output = forward(*arguments, **named)
        finally:
            self.inside.pop()
        if any(layer.member is member for layer in self.layers[before:]):
            self.keep(member, Call(arguments, named, tuple_length(output)))
        return output

    def keep(self, member: nn.Module, call: Call) -> None:
        """Of all calls but the last, what they were given is not needed any more."""
        for earlier in self.calls.values():
            earlier.arguments, earlier.named = (), {}
        self.calls[member] = call

    def encoded(self, answer: Answer, count: int | None = None) -> Float[Tensor, "image feature"]:
        """`count`: of feature vectors, if not one an image."""
        with seen(answer) as self.attentions:
            features = self.encode(self.images)
        count = count or self.count
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != count:
            shape = list(features.shape) if isinstance(features, Tensor) else type_name(features)
            raise ValueError(f"an encoder must return features [image, feature]; got {shape}")
        return features

    def read(self) -> Float[Tensor, "image feature"]:
        """Run without autograd, but from a probe's answer on, which becomes `self.leaf`."""
        with torch.no_grad():  # which also undoes what `read_attention` sets
            features = self.encoded(self.read_attention)
        self.require_readable()
        return features

    def graph(self) -> tuple[Tensor, list[Float[Tensor, "image head query token"]]]:
        """Features with their graph, and the attention of all layers in it."""
        found = []

        def answer(attention: Attention) -> Heads:
            member = self.inside[-1] if self.inside else None
            probabilities = attention.probabilities()
            if not probabilities.requires_grad:
                probabilities.requires_grad_()
            found.append(probabilities)
            self.take(Layer(member, attention, probabilities[:, :, :1].detach()))
            return probabilities @ attention.value

        with torch.enable_grad():
            features = self.encoded(answer)
        self.require_readable()
        return features, found

    def read_attention(self, attention: Attention) -> Heads:
        member = self.inside[-1] if self.inside else None
        self.take(Layer(member, attention, attention.probabilities(1)))
        if self.probe is None:
            answer = attention.answer()
            if not self.whole and len(self.layers) > 1:
                self.forget(self.layers[-2].attention)
            return answer
        torch.set_grad_enabled(True)
        self.leaf = attention.answer().detach().requires_grad_()
        return self.leaf.clone()

    def forget(self, attention: Attention) -> None:
        """Of all layers but the last, nothing is needed again."""
        attention.query = attention.key = attention.value = None

    def take(self, layer: Layer) -> None:
        """Keep a layer: a probe if its queries are not the tokens, otherwise a block's.

        Raises ValueError where that cannot be told, and for what is not read.
        """
        self.require_alike(layer.attention)
        if self.probe is not None:
            raise ValueError("attention behind an attention pool cannot be read")
        if layer.attention.query.shape[2] != layer.attention.tokens:
            self.probe = layer
        elif self.layers and self.list_of(layer) is not self.list_of(self.layers[0]):
            raise ValueError(
                "blocks that attend must be members of one list (nn.ModuleList or nn.Sequential), "
                f"so that they can be told from a pool; attention {len(self.layers)} of this model "
                "is outside of the list of the first"
            )
        else:
            self.layers.append(layer)

    def list_of(self, layer: Layer) -> list[nn.Module] | None:
        return None if layer.member is None else self.siblings[layer.member]

    def require_no_convolution(self) -> None:
        if self.attentions.convolves:
            raise NoAttention("this model convolves where it attends")

    def require_alike(self, attention: Attention) -> None:
        """Raise ValueError unless all layers attend to the same tokens of the same images."""
        self.require_no_convolution()
        first = self.layers[0].rows if self.layers else None
        tokens = attention.tokens if first is None else first.shape[-1]
        if len(attention.key) != self.count or attention.tokens != tokens:
            raise ValueError(
                f"block {len(self.layers)} of this model attends to {attention.tokens} tokens of "
                f"{len(attention.key)} images, not to {tokens} tokens of {self.count}: where "
                "tokens or images are added or removed there is no map"
            )

    def require_readable(self) -> None:
        """Raise ValueError unless the attention of all blocks was seen."""
        self.grid = self.attentions.grid
        if self.attentions.by_hand:
            raise ValueError(IN_WINDOWS if self.attentions.by_hand > self.count else BY_HAND)
        if not self.layers:
            raise NoAttention("this model does not attend, or with a kernel of its own")
        if len(self.layers) == 1 and self.layers[0].member is None:
            raise NoAttention("of this model the pool alone attends")
        self.require_no_convolution()
        for index, member in enumerate(self.list_of(self.layers[0]) or []):
            if sum(layer.member is member for layer in self.layers) != 1:
                raise ValueError(
                    "each block must attend once, through scaled_dot_product_attention or "
                    f"nn.MultiheadAttention, so that it can be read; block {index} does not"
                )

    def tail(self, queries: int | None, from_start: bool = False) -> Float[Tensor, "image feature"]:
        """Run the last block again, on its first token alone or (None) on all, and what follows,
        from `self.leaf`, the answer of its attention. `from_start`: run what precedes it, too.

        Raises TooFewTokens if the block, or what follows it, does not run on one token.
        """
        last = self.layers[-1]
        blocks = [layer.member for layer in self.layers]
        self.replaces = {}
        if None in blocks and queries is not None:
            raise TooFewTokens
        if None not in blocks and not from_start:
            self.replaces = {block: partial(self.passed, block) for block in blocks[:-1]}
            self.replaces[last.member] = partial(self.again, last.member, queries)
        with torch.no_grad():
            value = last.attention.value
            answers = last.rows @ value if queries else None
            self.seen_again = 0
            try:
                return self.encoded(partial(self.answer_again, answers))
            except (RuntimeError, ValueError, IndexError) as error:
                if queries is None:
                    raise
                raise TooFewTokens from error

    def passed(self, block: nn.Module, _forward, arguments: tuple, named: dict) -> Any:
        """An earlier block, which need not run again."""
        return self.returned(block, first_of(arguments, named))

    def returned(self, block: nn.Module, stream: Tensor) -> Any:
        """A stream as the block would return it."""
        length = self.calls[block].returned
        return stream if length is None else (stream, *(None,) * (length - 1))

    def again(self, block: nn.Module, queries: int | None, forward, _arguments, _named) -> Any:
        call = self.calls[block]
        return forward_on(self.cut(call.stream, queries), call, forward)

    def cut(self, stream: Tensor, queries: int | None) -> Tensor:
        """The first tokens of a stream, or (None) all."""
        if queries is None:
            return stream
        if stream.ndim != 3:
            raise TooFewTokens
        return stream.narrow(self.axis(stream), 0, queries)

    @property
    def tokens(self) -> int:
        return self.layers[0].rows.shape[-1]

    def axis(self, stream: Tensor) -> int:
        """Along which its tokens are."""
        return 1 if stream.shape[1] == self.tokens else 0

    def answer_again(self, answers: Heads | None, attention: Attention) -> Heads:
        self.seen_again += 1
        if not self.replaces and self.seen_again < len(self.layers):
            return attention.answer()
        torch.set_grad_enabled(True)
        if answers is None:
            answers = attention.answer()
        self.leaf = answers.detach().requires_grad_()
        return self.leaf.clone()


def first_of(arguments: tuple, named: dict[str, Any]) -> Any:
    return arguments[0] if arguments else next(iter(named.values()))


def forward_on(stream: Tensor, call: Call, forward: Callable[..., Any]) -> Any:
    """What `forward` returns for a stream, and otherwise what it was called with before."""
    if call.arguments:
        return forward(stream, *call.arguments[1:], **call.named)
    return forward(**call.named | {next(iter(call.named)): stream})


def tuple_length(output: Any) -> int | None:
    return len(output) if isinstance(output, tuple) else None


def image_count(images: Images) -> int:
    return len(images["pixel_values"] if isinstance(images, Mapping) else images)


def askers(
    features: Float[Tensor, "image feature"], leaf: Float[Tensor, "image head query _"]
) -> Bool[Tensor, " query"]:
    """Which queries the features are read from: they depend on what these are answered."""
    require_graph(features)
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad(
        features, leaf, noise.to(features), retain_graph=True, materialize_grads=True
    )
    return (slope != 0).any(-1).flatten(0, 1).any(0)


def require_graph(features: Tensor) -> None:
    if not features.requires_grad:
        raise ValueError("the features do not depend on the attention: something detaches them")
    require_derivatives(features)


class Enough(Exception):
    """The first attention has been seen."""


def tokens_of_pixels(
    encoder: Encoder, images: Float[Tensor, "image 3 height width"]
) -> Bool[Tensor, " token"]:
    """Which tokens are made of pixels: at the first attention, their keys are others for other
    images.
    """
    keys = []

    def answer(attention: Attention) -> Heads:
        keys.append(attention.key)
        raise Enough

    encode = follow(encoder.encode, twins(encoder.model))
    one = images[:1]
    noise = torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
    for picture in (one, one + noise.to(one)):
        with suppress(Enough), torch.no_grad(), seen(answer):
            encode(picture)
    one, other = keys
    far = (one - other).norm(dim=-1) / one.norm(dim=-1)
    return (far > torch.finfo(far.dtype).eps ** 0.5).any(1)[0]

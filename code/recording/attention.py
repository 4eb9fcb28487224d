"""Every attention of a network, seen while the network itself runs.

PyTorch offers each call of its functions to a `TorchFunctionMode`, in this thread alone. Inside
`Attentions` two of them go another way, the ones through which nearly all transformers attend:
`scaled_dot_product_attention` and `multi_head_attention_forward`. What they are given there is what
the network means, behind rotary embeddings, normalised queries, masks and adapters.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from model import ATTENTION_IS_SEEN

Heads = Float[Tensor, "image head token depth"]
Answer = Callable[["Attention"], Heads]

CONVOLUTIONS = {F.conv2d, torch.conv2d}
SOFTMAXES = {F.softmax, torch.softmax, Tensor.softmax}
ADDITIONS = {torch.add, Tensor.add, Tensor.add_}


@dataclass
class Attention:
    """One call of `scaled_dot_product_attention`, with its arguments."""

    query: Heads
    key: Heads
    value: Heads
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def __post_init__(self):
        if self.query.ndim != 4:
            raise ValueError(
                "attention is read where it is [image, head, token, depth]; this model calls it "
                f"with queries {list(self.query.shape)}"
            )
        if self.dropout_p:
            raise ValueError("this model drops attention at random: call model.eval() first")
        if self.enable_gqa:  # some queries share their keys and values
            copies = self.query.shape[1] // self.key.shape[1]
            self.key = self.key.repeat_interleave(copies, 1)
            self.value = self.value.repeat_interleave(copies, 1)

    @property
    def tokens(self) -> int:
        return self.key.shape[2]

    def probabilities(self, queries: int | None = None) -> Float[Tensor, "image head query token"]:
        """What the first `queries` queries (None: all) attend to, after the softmax."""
        query = self.query[:, :, :queries]
        scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
        scores = (query * scale) @ self.key.mT
        if self.is_causal:
            seen = torch.ones(
                self.query.shape[2], self.tokens, dtype=torch.bool, device=scores.device
            ).tril()
            scores = scores.masked_fill(~seen[:queries], -torch.inf)
        if self.attn_mask is not None:
            mask = self.attn_mask
            mask = mask[..., :queries, :] if mask.shape[-2] > 1 else mask
            if mask.dtype == torch.bool:
                scores = scores.masked_fill(~mask, -torch.inf)
            else:
                scores = scores + mask
        return scores.softmax(-1)

    def answer(self) -> Heads:
        """What the network would have got."""
        return F.scaled_dot_product_attention(
            self.query,
            self.key,
            self.value,
            self.attn_mask,
            is_causal=self.is_causal,
            scale=self.scale,
        )


def own_value(attention: Attention) -> Heads:
    """To each token its own value (MaskCLIP)."""
    return attention.value


def by_values(attention: Attention) -> Heads:
    """As if values were queries and keys (CLIP Surgery)."""
    return replace(attention, query=attention.value, key=attention.value).answer()


def by_queries_and_keys(attention: Attention) -> Heads:
    """Queries attend to queries, keys to keys, and both are added (SCLIP)."""
    of_queries = replace(attention, key=attention.query).probabilities()
    of_keys = replace(attention, query=attention.key).probabilities()
    return (of_queries + of_keys) @ attention.value


class Attentions(TorchFunctionMode):
    """Inside the block, in this thread, each attention is answered by `answer`.

    grid: rows and columns of the last convolution before the first attention: of the patches.
    by_hand: of how many images, or windows of them, attention was computed step by step, where it
        is not seen: at most so many square matrices were made by a softmax.
    convolves: whether cells were mixed by a convolution after the first attention, too.
    added: is told of each sum of two tensors, and of its result.
    """

    def __init__(self, answer: Answer):
        super().__init__()
        self.answer = answer
        self.grid: tuple[int, int] | None = None
        self.by_hand = 0
        self.convolves = self.started = False
        self.added: Callable[[Tensor, Tensor, Tensor], None] | None = None

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            self.started = True
            return self.answer(Attention(*args, **kwargs))
        if function is F.multi_head_attention_forward:
            self.started = True
            return multi_head(self.answer, *args, **kwargs)
        result = function(*args, **kwargs)
        if function in CONVOLUTIONS and not self.started:
            self.grid = tuple(result.shape[-2:])
        elif function in CONVOLUTIONS:
            self.convolves |= args[1].shape[-2:].numel() > 1
        elif function in SOFTMAXES and result.ndim > 2 and is_square(result):
            images = len(result) if result.ndim > 3 else 1  # or each head of each
            self.by_hand = max(self.by_hand, images)
        elif function in ADDITIONS and self.added and not kwargs:
            self.added(*args, result)
        return result


def is_square(result: Tensor) -> bool:
    return result.shape[-1] == result.shape[-2] > 1


@contextmanager
def seen(answer: Answer) -> Iterator[Attentions]:
    """Inside the block each attention of each network, ours included, is answered by `answer`."""
    token = ATTENTION_IS_SEEN.set(True)
    try:
        with Attentions(answer) as attentions:
            yield attentions
    finally:
        ATTENTION_IS_SEEN.reset(token)


def multi_head(
    answer: Answer,
    query: Float[Tensor, "token image width"],
    key: Float[Tensor, "token image width"],
    value: Float[Tensor, "token image width"],
    embed_dim: int,
    heads: int,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout: float,
    out_weight: Tensor,
    out_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Float[Tensor, "token image width"], Tensor | None]:
    """`multi_head_attention_forward` (its arguments), whose heads are answered by `answer`."""
    unusual = (bias_k, bias_v, static_k, static_v)
    if add_zero_attn or query.ndim != 3 or any(one is not None for one in unusual):
        raise ValueError(
            "attention with added tokens (bias_k, add_zero_attn, static_k), or of one image "
            "without its axis, cannot be read"
        )
    separate = (q_proj_weight, k_proj_weight, v_proj_weight)
    weights = separate if use_separate_proj_weight else in_weight.chunk(3)
    biases = (None,) * 3 if in_bias is None else in_bias.chunk(3)
    parts = [
        F.linear(x, weight, bias).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    ]
    masks = [added(mask, parts[0].dtype) for mask in (attn_mask, key_padding_mask)]
    if masks[0] is not None and masks[0].ndim == 3:  # of each head of each image
        masks[0] = masks[0].unflatten(0, (-1, heads))
    if masks[1] is not None:  # of each image's tokens
        masks[1] = masks[1][:, None, None]
    masks = [mask for mask in masks if mask is not None]
    attention = Attention(*parts, sum(masks) if masks else None, dropout if training else 0.0)
    mixed = answer(attention)
    result = F.linear(mixed.permute(2, 0, 1, 3).flatten(2), out_weight, out_bias)
    if not need_weights:
        return result, None
    probabilities = attention.probabilities()
    return result, probabilities.mean(1) if average_attn_weights else probabilities


def added(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask as what is added to scores. Here (unlike elsewhere) True is what is not seen."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -torch.inf)

"""The definitions of the methods for texts, written plainly: whole matrices and ordinary autograd.

Attention is written out in the place of the fused kernel. It serves ours, open_clip's and
transformers' text towers alike.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autograd_oracle import in_the_place_of_the_kernel


class Call(NamedTuple):
    """Of one block: queries, keys and values [text, head, token, depth], what each query attends
    to, and what it is answered.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    attention: Tensor
    answer: Tensor


@contextmanager
def calls_of(cut: bool = False) -> Iterator[list[Call]]:
    """Inside the block, every attention. `cut`: gradients go back to its answer, no further."""
    found = []

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
        assert not dropout_p
        scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
        if is_causal:
            later = torch.ones(scores.shape[-2:]).triu(1).bool()
            scores = scores.masked_fill(later, -torch.inf)
        if attn_mask is not None:
            kept = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if kept else scores + attn_mask
        attention = scores.exp() / scores.exp().sum(-1, keepdim=True)
        answer = attention @ value
        if cut:
            answer = answer.detach().requires_grad_()
        found.append(Call(query, key, value, attention, answer))
        return answer

    with in_the_place_of_the_kernel(attend), patch("model.is_recording", return_value=False):
        yield found


def oracle(
    model: nn.Module,
    encode: Callable[[Tensor], Tensor],
    ids: Tensor,
    target: Tensor,
    method: str,
    reader: int,
    inside: slice,
) -> Tensor:
    """Relevance [token] of the tokens `inside` one text of ids [1, token]."""
    cut = method in ("path", "path signed", "direct", "direct signed")
    with ExitStack() as stack:
        if method.startswith("direct"):
            for name, module in model.named_modules():
                if name.endswith("mlp"):
                    hook = module.register_forward_hook(lambda *call: call[-1].detach())
                    stack.callback(hook.remove)
        calls = stack.enter_context(calls_of(cut))
        score = F.cosine_similarity(encode(ids)[0], target, dim=0)
    if cut:
        slopes = torch.autograd.grad(score, [call.answer for call in calls], materialize_grads=True)
        each = [
            call.attention[0, :, reader] * (call.value[0] @ slope[0, :, reader, :, None])[..., 0]
            for call, slope in zip(calls, slopes, strict=True)
        ]
        signed = method.endswith("signed")
        found = sum(one.sum(0) if signed else one.relu().mean(0) for one in each)
    elif method == "Grad-ECLIP":
        found = grad_eclip(calls, score, reader)
    elif method == "attention":
        found = calls[-1].attention[0].mean(0)[reader]
    else:
        attention = [call.attention for call in calls]
        slopes = torch.autograd.grad(score, attention)
        if method == "last grad":
            slopes = [slopes[-1]] * len(slopes)
        found = torch.eye(attention[0].shape[-1], dtype=score.dtype)
        for matrix, slope in zip(attention, slopes, strict=True):
            found = found + (matrix * slope)[0].relu().mean(0) @ found
        found = found[reader]
    return found[inside].detach()


def grad_eclip(calls: list[Call], score: Tensor, reader: int) -> Tensor:
    """Heads side by side; the scale is that of the tokens that the reader sees."""
    slopes = torch.autograd.grad(score, [call.answer for call in calls])
    total = 0
    for call, slope in zip(calls, slopes, strict=True):
        query, key, value, slope = (
            one[0].transpose(0, 1).flatten(1) for one in (call.query, call.key, call.value, slope)
        )
        similar = F.cosine_similarity(query[reader][None], key)
        seen = similar[call.attention[0, 0, reader] > 0]
        low, high = seen.min(), seen.max()
        total = total + (similar - low) / (high - low) * (value @ slope[reader])
    return total.relu()

"""The gradient for each target at once, where that can be had."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def gradients(
    output: Tensor, inputs: Sequence[Tensor], slopes: Float[Tensor, "target ..."]
) -> Sequence[Float[Tensor, "target ..."]]:
    """The gradient at each of the inputs for each target; zero where the output does not depend."""
    if torch.is_anomaly_enabled():  # looks at values, which gradients in batches do not show
        return one_by_one(output, inputs, slopes)
    found = torch.autograd.grad(output, inputs, slopes, is_grads_batched=True, allow_unused=True)
    return [
        one.new_zeros(len(slopes), *one.shape) if slope is None else slope
        for one, slope in zip(inputs, found, strict=True)
    ]


def one_by_one(
    output: Tensor, inputs: Sequence[Tensor], slopes: Float[Tensor, "target ..."]
) -> list[Float[Tensor, "target ..."]]:
    """As `gradients`, but hooks see ordinary tensors."""
    each = [
        torch.autograd.grad(output, inputs, slope, retain_graph=True, materialize_grads=True)
        for slope in slopes
    ]
    return [torch.stack(of_one_input) for of_one_input in zip(*each, strict=True)]

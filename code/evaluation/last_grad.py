"""What `last grad` is made of: its closed form is a weighted sum of CLS rows, block by block.

    r = Σ_l w_l c_l,   c_l = mean_h relu(g_h ∘ A_l[h]),   w_l = Π_{m > l} (1 + c_m[0])

So a map can be taken apart, exactly, into what each block and each head of it puts in.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objective import for_each_image, target_directions
from recording import record_cls_queries
from saliency import vit_encoder


def shares(
    model: nn.Module,
    images: Float[Tensor, "image 3 row column"],
    targets: Float[Tensor, "*image target feature"],
) -> Float[Tensor, "block head image target row column"]:
    """What each head of each block puts into the map: their sum is the map of `last grad`."""
    visual = vit_encoder(model)
    weight = visual.conv1.weight
    directions = for_each_image(target_directions(targets, visual.output_dim), images, weight)
    found, factor = [], 1
    for attention, gradient in record_cls_queries(visual, images.to(weight), directions, 0):
        heads = (gradient * attention).relu()[:, :, :, 0] / attention.shape[2]
        found.append((heads[..., 1:] * factor).permute(2, 0, 1, 3))
        # The way through CLS itself: how much of the blocks below comes in once more.
        factor = factor * (1 + heads[..., 0].sum(2)[:, :, None, None])
    return torch.stack(found[::-1]).unflatten(-1, visual.grid(images))

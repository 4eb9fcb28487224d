"""Saliency methods for networks that attend: one function each, and the table that names them.

A method turns what was recorded of a network into relevance. It reads the layers last first, as
pairs

    attention  A_l  [image, 1, head, query, token]        after the softmax
    gradient   G_l  [image, target, head, query, token]   of the objective: the cosine of the image
                                                          features with each target

and returns how relevant every token is, [image, target, token]. Of most networks the features are
read from CLS, the first token: so G is zero for all other queries of the last block, and there the
only query recorded is CLS. Other blocks come with all their queries, or with that of CLS alone, as
`recording/` says. Where the features are read from more than one token, or from the queries of an
attention pool behind the blocks, `asks` and `start` of a recording say how much from which.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from methods.attention_alone import attention, rollout
from methods.attention_gradients import Relevance, all_grads, gradcam, last_grad
from methods.masks import occlusion
from methods.pools import pool, pool_signed
from methods.published import grad_eclip, legrad, maskclip, sclip, surgery
from methods.streams import direct, direct_signed, path
from model import ModifiedResNet
from recording import (
    Recording,
    is_ours_as_written,
    pairs_at_once,
    record_matrices,
    record_readers,
)
from recording.encoders import Encoder, Images
from recording.masks import Masked, record_occlusion
from recording.others import (
    Dense,
    record_attention,
    record_correlations,
    record_one_head,
    record_own_scores,
    record_own_values,
    record_similarity,
    record_surgery,
)
from recording.pools import (
    record_cells,
    record_cells_surgery,
    record_pool,
    record_pool_query,
)
from recording.runs import OtherPooling
from recording.streams import record_direct, record_path

Maps = Float[Tensor, "image target row column"]


POOLINGS = ("CLS", "probe", "average")


@dataclass(frozen=True)
class Method:
    """What a method records of a network, and what it makes of that.

    poolings: what the features of networks that it explains may be read from.
    ours_alone: whether it is for our network, with nothing done to it.
    of_targets: whether maps differ from target to target.
    signed: whether negative relevance speaks against a target.
    whole: whether memory grows with pairs of image and target, by whole matrices.
    """

    relevance: Callable[[Recording | Dense | Masked], Relevance]
    record: Callable[..., Recording | Dense | Masked]
    poolings: tuple[str, ...] = POOLINGS
    ours_alone: bool = False
    of_targets: bool = True
    signed: bool = False
    whole: bool = False

    def explain(
        self, encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
    ) -> Maps | list[Float[Tensor, "target row column"]]:
        """Maps on the patch grid, of what is recorded from `start_block` on; a list of one map an
        image where the grids differ.

        They are made in parts where whole matrices for all images and targets would be too large.
        """
        if not self.of_targets and directions.shape[1] > 1:
            maps = self.explain(encoder, images, directions[:, :1], start_block)
            count = directions.shape[1]
            if isinstance(maps, Tensor):
                return maps.expand(-1, count, -1, -1)
            return [one.expand(count, -1, -1) for one in maps]
        if not isinstance(images, Tensor):  # what a processor made of all of them together
            return self.maps(encoder, images, directions, start_block)
        ours = is_ours_as_written(encoder) or encoder.runs(ModifiedResNet)
        known = self.whole or ours or encoder.pooling
        if not known and len(images) > 1:  # the first image tells what is read
            parts = [(images[part], directions[part]) for part in (slice(1), slice(1, None))]
            return torch.cat([self.explain(encoder, *part, start_block) for part in parts])
        whole = self.whole or encoder.pooling == "average"
        pairs = pairs_at_once(encoder, images) if whole else directions[..., 0].numel()
        count = max(1, pairs // directions.shape[1])
        found = [
            [self.maps(encoder, some, few, start_block) for few in asked.split(pairs, 1)]
            for some, asked in zip(images.split(count), directions.split(count), strict=True)
        ]
        return torch.cat([torch.cat(row, 1) for row in found])

    def maps(
        self, encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
    ) -> Maps:
        if encoder.pooling not in (None, *self.poolings):
            raise OtherPooling
        recording = self.record(encoder, images, directions, start_block)
        return on_grid(self.relevance(recording), recording)


class Asking(Method):
    """A method that asks a network as a whole: of any, and of all targets at once."""

    def explain(
        self, encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
    ) -> Maps:
        if start_block:
            raise ValueError(
                "start_block is for methods that read blocks: this one asks the whole network"
            )
        return self.maps(encoder, images, directions, start_block)


def on_grid(relevance: Float[Tensor, "image *target token"], recording: Recording) -> Maps:
    """The relevance of the patches; of each image by itself where the grids differ."""
    patches = relevance[..., recording.prefix :]
    if isinstance(recording.grid, tuple):
        return patches.unflatten(-1, recording.grid)
    return [
        image[..., : rows * columns].unflatten(-1, (rows, columns))
        for image, (rows, columns) in zip(patches, recording.grid, strict=True)
    ]


# Of any network: it is only asked.
MASKING = {
    "occlusion": Asking(occlusion, record_occlusion, signed=True),
}

METHODS = {
    "direct": Method(direct, record_direct, ("CLS", "probe")),
    "direct signed": Method(direct_signed, record_direct, ("CLS", "probe"), signed=True),
    "path": Method(path, record_path, ("CLS", "probe")),
    "last grad": Method(last_grad, record_readers),
    "all grads": Method(all_grads, record_matrices, whole=True),
    "gradcam": Method(gradcam, record_readers),
    "Grad-ECLIP": Method(grad_eclip, record_similarity, ("CLS",)),
    "Grad-ECLIP, one head": Method(grad_eclip, record_one_head, ("CLS",), ours_alone=True),
    "LeGrad": Method(legrad, record_own_scores, ("CLS",), whole=True),
    "MaskCLIP": Method(maskclip, record_own_values, ("CLS",), signed=True),
    "SCLIP": Method(sclip, record_correlations, ("CLS",), signed=True),
    "CLIP Surgery": Method(surgery, record_surgery, ("CLS",), signed=True),
    "rollout": Method(rollout, record_attention, of_targets=False, whole=True),
    "attention": Method(attention, record_readers, of_targets=False),
    **MASKING,
}
# Of the attention pool of a ResNet of ours.
POOL_METHODS = {
    "pool": Method(pool, record_pool),
    "pool signed": Method(pool_signed, record_pool, signed=True),
    "Grad-ECLIP": Method(grad_eclip, record_pool_query),
    "MaskCLIP": Method(maskclip, record_cells, signed=True),
    "CLIP Surgery": Method(surgery, record_cells_surgery, signed=True),
    "attention": Method(attention, record_pool, of_targets=False),
    **MASKING,
}


def explaining(pooling: str) -> dict[str, Method]:
    """The methods for networks of anybody whose features are read from CLS, a probe, an average."""
    return {
        name: method
        for name, method in METHODS.items()
        if pooling in method.poolings and not method.ours_alone
    }


def is_of_targets(name: str | None) -> bool:
    """Whether the maps of a method differ from target to target."""
    method = (METHODS | POOL_METHODS).get(name)
    return method is None or method.of_targets


def is_signed(name: str) -> bool:
    """Whether negative relevance by a method speaks against a target; by CAMs there is none."""
    method = (METHODS | POOL_METHODS).get(name)
    return method is not None and method.signed

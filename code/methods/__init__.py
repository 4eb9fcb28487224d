"""Saliency methods for ViT-based CLIP: one function each, and the table that names them.

A method turns recorded blocks into relevance. It reads them last first, as pairs

    attention  A_l  [image, 1, head, query, token]        after the softmax
    gradient   G_l  [image, target, head, query, token]   of the objective: the cosine of the image
                                                          features with each target

and returns how relevant every token is to CLS, [image, target, token], CLS first. The objective is
read from CLS, so G is zero for all other queries of the last block: there, the only query recorded
is CLS. Other blocks come with all their queries, or with that of CLS alone, as `recording` says.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.attention_gradients import Relevance, all_grads, gradcam, last_grad
from model import VisionTransformer
from recording import Blocks, is_as_written, pairs_at_once, record_all_queries, record_cls_queries


@dataclass(frozen=True)
class Method:
    relevance: Callable[[Blocks], Relevance]
    record: Callable[..., Iterator]

    def explain(
        self, visual: VisionTransformer, images: Tensor, directions: Tensor, first: int
    ) -> Relevance:
        """Relevance of every token, recorded from block `first` on; in parts where whole matrices
        for all images and targets would be too large.
        """
        whole = self.record is record_all_queries or not is_as_written(visual)
        pairs = pairs_at_once(visual, images) if whole else directions[..., 0].numel()
        count = max(1, pairs // directions.shape[1])
        found = [
            [self.relevance(self.record(visual, some, few, first)) for few in asked.split(pairs, 1)]
            for some, asked in zip(images.split(count), directions.split(count), strict=True)
        ]
        return torch.cat([torch.cat(row, 1) for row in found])


METHODS = {
    "last grad": Method(last_grad, record_cls_queries),
    "all grads": Method(all_grads, record_all_queries),
    "gradcam": Method(gradcam, record_cls_queries),
}

"""CAMs that weigh a channel by the similarity of the image as seen through it."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pytorch_grad_cam.base import ChannelwiseCAM, Record, scores_of


class ScoreCAM(ChannelwiseCAM):
    """Wang et al., CVPR-W 2020, eqs. 6-8: w = softmax_c(S(X ∘ H_c)).

    H_c is channel c enlarged to the image and scaled to [0, 1]; S is 100 times the cosine, CLIP's
    logit. One forward pass a channel, in batches of `batch_size`; all targets share them, and so
    do all flat channels, through which nothing is seen.
    """

    usual_batch_size = 16  # on a CPU, larger ones spill out of its caches; a GPU likes more

    def weights(self, record: Record) -> Float[Tensor, "image target channel 1 1"]:
        wanted = self.channels(record)
        scores = torch.stack([self.scores(record, i, row.any(0)) for i, row in enumerate(wanted)])
        scores = scores.masked_fill(~wanted, -torch.inf)
        return scores.softmax(-1)[..., None, None]

    def channels(self, record: Record) -> Bool[Tensor, "image target channel"]:
        """Which channels are looked through."""
        images, _, channels = record.activations.shape[:3]
        targets = record.directions.shape[1]
        return record.activations.new_ones(images, targets, channels, dtype=torch.bool)

    def scores(
        self, record: Record, index: int, wanted: Bool[Tensor, " channel"]
    ) -> Float[Tensor, "target channel"]:
        """Similarities of image number `index` as seen through each wanted channel."""
        image, directions = record.images[index], record.directions[index]
        channels = record.activations[index, 0]
        seen = channels.flatten(1).amax(1) > channels.flatten(1).amin(1)
        blank = scores_of(self.model(torch.zeros_like(image)[None]), directions)
        scores = blank.T.repeat(1, len(channels))
        for batch in self.batches(wanted & seen):
            masks = F.interpolate(
                channels[batch, None], image.shape[-2:], mode="bilinear", align_corners=True
            )
            low, high = masks.amin((-2, -1), keepdim=True), masks.amax((-2, -1), keepdim=True)
            masks = ((masks - low) / (high - low)).to(image)
            scores[:, batch] = scores_of(self.model(image * masks), directions).T
        return scores


class GScoreCAM(ScoreCAM):
    """Chen et al., ACCV 2022: ScoreCAM through the channels with the largest mean gradient alone.

    For CLIP, where most channels have nothing to do with the target: 300 of them instead of 2,048.
    The softmax is over those; all other weights are zero. (In the authors' code the others enter it
    with a score of 0, which makes a difference only where similarities are negative.)
    """

    uses_gradients = True

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        use_cuda: bool = False,
        batch_size: int | None = None,
        topk: int = 300,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__(
            model, target_layers, use_cuda, batch_size, reshape_transform=reshape_transform
        )
        self.topk = topk

    def channels(self, record: Record) -> Bool[Tensor, "image target channel"]:
        importance = record.gradients.mean((-2, -1))
        chosen = importance.topk(min(self.topk, importance.shape[-1])).indices
        return torch.zeros_like(importance, dtype=torch.bool).scatter(-1, chosen, True)

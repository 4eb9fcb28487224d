"""The CAM that weighs a channel by what is lost without it."""

import torch
from jaxtyping import Float
from torch import Tensor

from pytorch_grad_cam.base import ChannelwiseCAM, Record, scores_of
from recording.twins import hooked


class AblationCAM(ChannelwiseCAM):
    """Ramaswamy et al., WACV 2020, eq. 3: w_c = S - S_c, where S_c is S with channel c set to zero.

    The paper divides by S; that scales the map, and turns it around where the similarity is
    negative, so we do not. S is 100 times the cosine. Only what lies above the target layer runs
    again, in batches of `batch_size` channels, for all targets at once; a channel that is zero
    everywhere is not missed and needs no run. The layer must end a residual block, or be outside.
    """

    def weights(self, record: Record) -> Float[Tensor, "image target channel 1 1"]:
        drops = []
        for index, (channels,) in enumerate(record.activations):
            directions = record.directions[index]
            whole = self.above(record, index, channels[None].clone())
            if not len(whole):
                raise ValueError(
                    "AblationCAM needs a target layer that everything above it depends on alone, "
                    "such as a whole block: inside a residual block the way past it is missing"
                )
            score = scores_of(whole, directions)
            drop = channels.new_zeros(len(channels), directions.shape[0])
            for batch in self.batches(channels.flatten(1).any(1)):
                ablated = channels.repeat(len(batch), 1, 1, 1)
                ablated[torch.arange(len(batch)), batch] = 0
                drop[batch] = score - scores_of(self.above(record, index, ablated), directions)
            drops.append(drop.T)
        return torch.stack(drops)[..., None, None]

    def above(
        self, record: Record, index: int, activations: Float[Tensor, "batch channel row column"]
    ) -> Float[Tensor, "batch feature"]:
        """Features from the target layer up, where image number `index` has these activations; an
        empty batch runs through everything below it. The layers above may work in place.
        """
        replaced = activations.to(record.output)

        def replace(_: int, output: Tensor) -> Tensor:
            if self.reshape_transform is None:
                return replaced
            if len(output):
                raise ValueError("AblationCAM needs a target layer whose first axis is the image")
            return self.put_back(record.output[index], replaced)

        with hooked([record.layer], replace):
            return self.model(record.images[:0])

    def put_back(
        self, output: Tensor, activations: Float[Tensor, "batch channel row column"]
    ) -> Tensor:
        """What the layer puts out for an image, [batch, ...], with other activations in it.

        `reshape_transform` chooses values, so its transpose puts them where they came from.
        """
        with torch.enable_grad():
            whole = output.expand(len(activations), *output.shape).clone().requires_grad_()
            chosen = self.reshape_transform(whole)
        change = activations - chosen.detach()
        return whole.detach() + torch.autograd.grad(chosen, whole, change)[0]

"""Guided backpropagation: which pixels speak for the target."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from objective import for_each_image, objective_slopes, target_directions
from pytorch_grad_cam.hooks import hooked


class GuidedBackpropReLUModel:
    """Springenberg et al., ICLR-W 2015: the gradient of the cosine at the pixels, where on the way
    back every ReLU lets through only what is positive.

    model: a CNN with `nn.ReLU` layers that returns an embedding; it is put into evaluation mode and
        otherwise left as it is.
    """

    def __init__(self, model: nn.Module, use_cuda: bool = False):
        self.model = (model.cuda() if use_cuda else model).eval()
        self.relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
        if not self.relus:
            raise TypeError(f"{type(model).__name__} has no nn.ReLU layers to guide by")

    def __call__(
        self,
        input_img: Float[Tensor, "1 3 height width"],
        target_encoding: Float[Tensor, "1 feature"],
    ) -> Float[np.ndarray, "height width 3"]:
        """The guided gradient of one image for one target, signed."""
        if len(input_img) != 1 or target_encoding.shape[:-1] != (1,):
            raise ValueError(
                "give one image [1, 3, H, W] and one target [1, D]; `gradients` takes many. "
                f"Got {list(input_img.shape)} and {list(target_encoding.shape)}"
            )
        return self.gradients(input_img, target_encoding)[0, 0].permute(1, 2, 0).cpu().numpy()

    def gradients(
        self,
        images: Float[Tensor, "image 3 height width"],
        targets: Float[Tensor, "*image target feature"],
    ) -> Float[Tensor, "image target 3 height width"]:
        """The guided gradient of every image for every target."""
        weight = next(self.model.parameters())
        width = getattr(self.model, "output_dim", None)
        with torch.inference_mode(False), torch.enable_grad():
            directions = for_each_image(target_directions(targets, width), images, weight)
            images = images.detach().to(weight, copy=True).requires_grad_()
            with hooked(self.relus, lambda _, output: guided(output)):
                features = self.model(images)
            slopes = objective_slopes(features.detach(), directions)
            found = [
                torch.autograd.grad(features, images, slope, retain_graph=True)[0].to(directions)
                for slope in slopes
            ]
        return torch.stack(found, 1)


def guided(output: Tensor) -> Tensor:
    """The same values; on the way back, only positive gradients pass."""
    output = output.clone()  # the layer above may work in place
    output.register_hook(torch.relu)
    return output

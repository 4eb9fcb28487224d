"""Guided backpropagation: which pixels speak for the target."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from checks import (
    require_differentiable,
    require_finite,
    require_tensor,
    type_name,
    undisturbed,
)
from objective import for_each_image, objective_slopes, target_directions
from pytorch_grad_cam.base import embedding_model, require_features, require_images
from recording.twins import hooked, twins


class GuidedBackpropReLUModel:
    """Springenberg et al., ICLR-W 2015: the gradient of the cosine at the pixels, where on the way
    back every ReLU lets through only what is positive.

    model: a CNN with `nn.ReLU` layers that returns an embedding, or a CLIP with such a one. It is
        run in evaluation mode and left as it is.
    """

    def __init__(self, model: nn.Module, use_cuda: bool = False):
        self.model = embedding_model(model)
        self.relus = [module for module in self.model.modules() if isinstance(module, nn.ReLU)]
        if not self.relus:
            raise TypeError(f"{type_name(model)} has no nn.ReLU layers to guide by")
        if use_cuda:
            model.cuda()

    def __call__(
        self,
        input_img: Float[Tensor, "1 3 height width"],
        target_encoding: Float[Tensor, "1 feature"],
    ) -> Float[np.ndarray, "height width 3"]:
        """The guided gradient of one image for one target, signed."""
        require_images(input_img)
        require_tensor(target_encoding, "the target must be features, a float tensor [1, D]")
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
        directions = target_directions(targets)
        require_images(images)
        require_differentiable(self.model)
        weight = next(self.model.parameters(), images)
        with undisturbed(weight.device), torch.enable_grad():
            images = images.detach().to(weight, copy=True).requires_grad_()
            require_finite(images, "images")
            directions = for_each_image(directions, images, weight)
            of = twins(self.model)
            with hooked([of[relu] for relu in self.relus], lambda _, output: guided(output)):
                features = of[self.model](images)
            require_features(features, directions)
            slopes = objective_slopes(features.detach(), directions)
            found = [
                torch.autograd.grad(features, images, slope, retain_graph=True)[0].to(directions)
                for slope in slopes
            ]
            for gradient in found:
                require_finite(gradient, "gradients at the pixels")
        return torch.stack(found, 1)


def guided(output: Tensor) -> Tensor:
    """The same values; on the way back, only positive gradients pass."""
    output = output.clone()  # the layer above may work in place
    output.register_hook(torch.relu)
    return output

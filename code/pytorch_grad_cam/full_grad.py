"""The CAM that reads the gradient at every bias of the network."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maps import normalise_maps, resize_maps
from objective import objective_slopes
from pytorch_grad_cam.base import BaseCAM, Maps, principal_component


class FullGrad(BaseCAM):
    """Srinivas and Fleuret, NeurIPS 2019, eq. 5: r = ψ(X ∘ ∂S/∂X) + Σ_l Σ_c ψ(b_lc ∂S/∂b_lc).

    ψ takes the absolute value of each channel, scales it to [0, 1] and enlarges it to the image, so
    maps have the size of the image. All convolutions and batch normalisations with a bias count
    (that of a normalisation is β - γ μ / σ); `target_layers` is not used. Scaling each channel by
    itself follows pytorch-grad-cam; the authors' code scales all channels of a layer together.
    """

    def __init__(
        self, model: nn.Module, target_layers: Sequence[nn.Module] = (), use_cuda: bool = False
    ):
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
        super().__init__(model, [m for m in layers if m.bias is not None], use_cuda)

    def explain(self, images: Tensor, directions: Tensor, eigen_smooth: bool) -> list[Maps]:
        images = images.detach().clone().requires_grad_()
        features, outputs = self.run(images)
        biases = [bias(layer).to(directions)[:, None, None] for layer in self.target_layers]
        factors = [images.detach().to(directions), *biases]
        maps = []
        for slope in objective_slopes(features.detach(), directions):  # a graph's worth of memory
            gradients = torch.autograd.grad(features, [images, *outputs], slope, retain_graph=True)
            parts = []
            for factor, gradient in zip(factors, gradients, strict=True):
                share = normalise_maps((factor * gradient.flatten(0, -4)).abs())
                parts.append(resize_maps(share.sum(1, keepdim=True), images.shape[-2:]))
            parts = torch.cat(parts, 1)
            maps.append(principal_component(parts[:, None])[:, 0] if eigen_smooth else parts.sum(1))
        return [torch.stack(maps, 1).relu()]


def bias(layer: nn.Conv2d | nn.BatchNorm2d) -> Float[Tensor, " channel"]:
    """What a layer adds whatever its input: in evaluation mode, for a normalisation too."""
    if isinstance(layer, nn.BatchNorm2d):
        return (
            layer.bias - layer.weight * layer.running_mean / (layer.running_var + layer.eps).sqrt()
        )
    return layer.bias

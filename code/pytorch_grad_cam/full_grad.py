"""The CAM that reads the gradient at every bias of the network."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from checks import require_finite, type_name
from maps import normalise_maps, resize_maps
from objective import objective_slopes
from pytorch_grad_cam.base import (
    BaseCAM,
    Maps,
    embedding_model,
    principal_component,
    require_features,
)


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
        layers = [
            module
            for module in embedding_model(model).modules()
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d) and module.bias is not None
        ]
        if not layers:
            raise ValueError(
                f"FullGrad reads biases: {type_name(model)} has no convolution or batch "
                "normalisation with one"
            )
        super().__init__(model, layers, use_cuda)

    def explain(self, images: Tensor, directions: Tensor, eigen_smooth: bool) -> list[Maps]:
        images = images.detach().clone().requires_grad_()
        features, outputs = self.run(images, before_other_hooks=True)
        require_features(features, directions)
        biases = [bias(layer).to(directions)[:, None, None] for layer in self.target_layers]
        factors = [images.detach().to(directions), *biases]
        maps = []
        for slope in objective_slopes(features.detach(), directions):  # a graph's worth of memory
            gradients = torch.autograd.grad(features, [images, *outputs], slope, retain_graph=True)
            parts = []
            for factor, gradient in zip(factors, gradients, strict=True):
                share = (factor * gradient.flatten(0, -4)).abs()
                require_finite(share.amax((-2, -1)), "gradients at the biases")
                share = normalise_maps(share)
                parts.append(resize_maps(share.sum(1, keepdim=True), images.shape[-2:]))
            parts = torch.cat(parts, 1)
            maps.append(principal_component(parts[:, None])[:, 0] if eigen_smooth else parts.sum(1))
        return [torch.stack(maps, 1)]


def bias(layer: nn.Conv2d | nn.BatchNorm2d) -> Float[Tensor, " channel"]:
    """What a layer adds whatever its input: in evaluation mode, for a normalisation too."""
    if type(layer).forward not in (nn.Conv2d.forward, nn.BatchNorm2d.forward) or (
        "forward" in vars(layer)
    ):
        raise ValueError(
            f"FullGrad cannot tell what the bias of {type_name(layer)} adds: its forward is not "
            "that of torch.nn"
        )
    if isinstance(layer, nn.BatchNorm2d):
        return (
            layer.bias - layer.weight * layer.running_mean / (layer.running_var + layer.eps).sqrt()
        )
    return layer.bias

"""What a method must beat: maps that know nothing of the target, or of the model.

All have the signature of `relevance_maps` and return maps at a size of their own.
"""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from image_utils import true_colours
from methods import Method
from model import ModifiedResNet, VisionTransformer
from recording.encoders import Encoder, encoder_of
from saliency import methods, relevance_maps

Maps = Float[Tensor, "image target row column"]


def centre(model: nn.Module | Encoder, images: Tensor, targets: Tensor) -> Maps:
    """A Gaussian in the middle, its deviation a quarter of the image: where photographers aim."""
    rows, columns = (
        torch.linspace(-2, 2, side, device=images.device) for side in images.shape[-2:]
    )
    bump = torch.exp(-(rows[:, None] ** 2 + columns**2) / 2)
    return bump.expand(len(images), targets.shape[-2], -1, -1)


def random(model: nn.Module | Encoder, images: Tensor, targets: Tensor) -> Maps:
    """Noise on the model's grid (14 x 14 if it is not ours); the same for the same image."""
    visual = encoder_of(model).model
    ours = isinstance(visual, VisionTransformer | ModifiedResNet)
    grid = visual.grid(images) if ours else (14, 14)
    seeds = (images.double().abs().sum((1, 2, 3)) * 1e3).long().tolist()
    noise = [
        torch.rand(targets.shape[-2], *grid, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    return torch.stack(noise).to(images.device)


def edges(model: nn.Module | Encoder, images: Tensor, targets: Tensor) -> Maps:
    """How much the picture changes: its Sobel gradient, blurred over a tenth of its side."""
    colours = true_colours(images, encoder_of(model).pixels)
    grey = colours.mean(1, keepdim=True)
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).to(grey)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    change = F.conv2d(padded, torch.stack([sobel, sobel.T])[:, None]).norm(dim=1, keepdim=True)
    return blurred(change, images.shape[-1] // 20).expand(-1, targets.shape[-2], -1, -1)


def blurred(images: Float[Tensor, "image channel row column"], radius: int) -> Tensor:
    """Images smoothed by a Gaussian of that deviation, in pixels, mirrored at the borders."""
    reach = torch.arange(-3 * radius, 3 * radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-((reach / radius) ** 2) / 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    pad = len(reach) // 2
    for _ in range(2):  # along rows, then along columns
        images = F.conv2d(
            F.pad(images, (pad, pad, 0, 0), mode="reflect"), kernel, groups=images.shape[1]
        ).mT
    return images


def baselines(model: nn.Module | Encoder) -> dict:
    """By name, with the methods of a model whose maps are the same for all targets."""
    found = {"centre": centre, "random": random, "edges": edges}
    for name, method in methods(model).items():
        if isinstance(method, Method) and not method.of_targets:
            found[name] = partial(relevance_maps, method=name)
    return found

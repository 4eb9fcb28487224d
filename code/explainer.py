"""A model with what it takes to explain pictures by it: for the demo, figures and notebooks."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clip_ import load, tokenize
from image_utils import open_image
from model import VisionTransformer
from objective import LOGIT_SCALE, target_directions
from recording.encoders import encoder_of
from saliency import methods, normalise_maps, relevance_maps, resize_maps

Images = Float[Tensor, "image 3 row column"]
Targets = Float[Tensor, "*image target feature"]


class Explainer:
    """The model that `load(name)` gives, with its preprocessing."""

    def __init__(self, name: str):
        self.name = shown_name(name)
        self.model, self.preprocess = load(name)
        self.visual = self.model.visual
        self.kind = "ViT" if isinstance(self.visual, VisionTransformer) else "ResNet"
        self.methods = list(methods(self.model))
        self.device = self.visual.conv1.weight.device

    def read(self, *paths: str | Path) -> Images:
        """Pictures as the model takes them."""
        if not paths:
            raise ValueError("there must be at least one picture to read")
        return torch.stack([self.preprocess(open_image(path)) for path in paths]).to(self.device)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "target feature"]:
        """Unit features of texts."""
        return target_directions(self.model.encode_text(tokenize(prompts)).float())

    @torch.no_grad()
    def pictures(self, images: Images) -> Float[Tensor, "image feature"]:
        """Unit features of pictures."""
        encoder_of(self.visual).require_images(images)
        return target_directions(self.model.encode_image(images.to(self.device)).float())

    def scores(self, images: Images, targets: Targets) -> Float[Tensor, "image target"]:
        """100 times the cosine of every image with its targets."""
        features = self.pictures(images).unsqueeze(-2)
        return LOGIT_SCALE * (features * target_directions(targets, features.shape[-1])).sum(-1)

    def maps(
        self, images: Images, targets: Targets, method: str | None = None, negative: bool = False
    ) -> Float[Tensor, "image target row column"]:
        """Raw relevance at the size of the images."""
        maps = relevance_maps(self.model, images, targets, method, negative=negative)
        return resize_maps(maps, images.shape[-2:])

    def heat(
        self, images: Images, targets: Targets, method: str | None = None, negative: bool = False
    ) -> Float[np.ndarray, "image target row column"]:
        """Relevance in [0, 1] at the size of the images, each map scaled by itself."""
        return normalise_maps(self.maps(images, targets, method, negative)).cpu().numpy()


def shown_name(name: str) -> str:
    """What figures, tables and files call the model that `load(name)` gives."""
    return Path(name).stem if Path(name).is_file() else re.sub("[/:]", "-", name)


def explainers(names: Sequence[str]) -> list[Explainer]:
    """Models to be shown beside one another. Raises ValueError if two would have one name."""
    found: dict[str, str] = {}
    for name in names:
        shown = shown_name(name)
        if shown in found:
            raise ValueError(
                f"{found[shown]} and {name} would both be called {shown}: name each model once, "
                "and give files names of their own"
            )
        found[shown] = name
    return [Explainer(name) for name in names]

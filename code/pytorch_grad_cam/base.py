"""What all CAMs share: running the network, the targets, and the sum over channels.

A CAM weighs the channels of a layer's activations A by how much they speak for the target and adds
them up: relu(Σ_c w_c A_c). A method is the weight. The network below the layer runs once, without
autograd; only what lies above it is differentiated, for all targets at once.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from checks import (
    require_derivatives,
    require_differentiable,
    require_finite,
    require_tensor,
    type_name,
    undisturbed,
)
from maps import normalise_maps
from objective import (
    feature_lengths,
    for_each_image,
    objective_slopes,
    similarities,
    target_directions,
)
from recording.twins import follow, hooked, twins

Maps = Float[Tensor, "image target row column"]


@dataclass(frozen=True)
class Record:
    """One run of the network, as it looks from one target layer."""

    layer: nn.Module
    output: Tensor  # of the layer, [image, ...]
    images: Float[Tensor, "image 3 height width"]
    directions: Float[Tensor, "image target feature"]
    activations: Float[Tensor, "image 1 channel row column"]
    gradients: Float[Tensor, "image target channel row column"] | None  # of the objective


class BaseCAM:
    """Where in an image does its similarity to a target come from, as a layer's channels tell?

    model: any network that returns an embedding [image, feature], such as `clip.visual`, or a CLIP
        with such a one. It is run in evaluation mode and left as it is.
    target_layers: a list of modules of the model whose output is [image, channel, row, column],
        such as `[model.layer4[-1]]`.
    use_cuda: move the model to the GPU; otherwise it stays where it is.
    reshape_transform: of layers that put out something else, makes it [image, channel, row, column]
        by choosing and rearranging values: for `model.transformer.resblocks[-1].ln_1` of a ViT
        `lambda tokens: tokens[:, 1:].mT.unflatten(2, (rows, columns))`. (Of what its last block
        puts out, CLS alone reaches the features: there are no gradients at the patches.)

    A method defines `weights`, and says whether it needs gradients.
    """

    uses_gradients = True

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        use_cuda: bool = False,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ):
        self.model = embedding_model(model)
        wanted = "target_layers must be a list of modules of the model, such as [model.layer4[-1]]"
        if isinstance(target_layers, str | nn.Module) or not isinstance(target_layers, Iterable):
            raise TypeError(f"{wanted}; got {type_name(target_layers)}")
        target_layers, modules = list(target_layers), set(self.model.modules())
        known = [isinstance(layer, nn.Module) and layer in modules for layer in target_layers]
        if not known or not all(known):
            raise ValueError(f"{wanted}; got {[type_name(layer) for layer in target_layers]}")
        if use_cuda:
            model.cuda()
        self.target_layers = target_layers
        self.reshape_transform = reshape_transform

    def __enter__(self) -> "BaseCAM":
        return self

    def __exit__(self, *exception) -> None:
        """Nothing to undo: nothing is done to the model."""

    def __call__(
        self,
        input_tensor: Float[Tensor, "image 3 height width"],
        target_encoding: Float[Tensor, "*image target feature"],
        target_category: None = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> list[Float[np.ndarray, "image target row column"]]:
        """Maps of every image for every target, one array per target layer, not rescaled.

        target_encoding: [K, D], all targets for every image, or [B, K, D], for each image its own;
            with the features of one target, [1, D], the arrays are [B, 1, h, w].
        target_category: kept for its place among the arguments; the target is `target_encoding`.
        aug_smooth: the mean over the image and its mirror image, darker and lighter by a tenth,
            of maps scaled to [0, 1].
        eigen_smooth: the principal component of the weighted channels instead of their sum.

        Raises TypeError on what is no tensor, and ValueError on tensors of wrong shape, width or
        value.
        """
        if target_category is not None:
            raise ValueError("target_category is not used: give the target as target_encoding")
        directions = target_directions(target_encoding)
        if aug_smooth:
            maps = self.smooth_maps(input_tensor, directions, eigen_smooth)
        else:
            maps = self.maps(input_tensor, directions, eigen_smooth)
        return [layer.cpu().numpy() for layer in maps]

    def maps(
        self,
        images: Float[Tensor, "image 3 height width"],
        directions: Float[Tensor, "*image target feature"],
        eigen_smooth: bool = False,
    ) -> list[Maps]:
        """As a call, with tensors and of any directions (see `objective.py`), one per layer."""
        require_images(images)
        if self.uses_gradients:
            require_differentiable(self.model)
        weight = next(self.model.parameters(), images)
        with undisturbed(weight.device), torch.no_grad():
            images = images.detach().to(weight, copy=images.is_inference())
            require_finite(images, "images")
            directions = for_each_image(directions, images, weight)
            maps = self.on_twins().explain(images, directions, eigen_smooth)
            for layer in maps:
                require_finite(layer, f"maps of {type(self).__name__}")
        return [layer.relu() for layer in maps]

    def on_twins(self) -> "BaseCAM":
        """This CAM on a model that nobody else has. What is set on it is gone after the call."""
        of, cam = twins(self.model), copy(self)
        cam.model, cam.target_layers = of[self.model], follow(self.target_layers, of)
        return cam

    def explain(self, images: Tensor, directions: Tensor, eigen_smooth: bool) -> list[Maps]:
        """The maps of each target layer; what is negative in them is not shown."""
        targets = directions.shape[1]
        try:
            features, outputs = self.run(images, targets if self.uses_gradients else 1)
            complete = len(features) == len(images) * outputs[0].shape[1]
        except RuntimeError:
            complete = False
        if not complete:  # a way around the layer lacks the copies, or the first axis is no image
            features, outputs = self.run(images.repeat_interleave(targets, 0))
        require_features(features, directions)
        gradients = [None] * len(outputs)
        if self.uses_gradients:
            slopes = objective_slopes(features.detach(), directions.flatten(0, 1).unsqueeze(1))[0]
            gradients = [
                self.shown(gradient.flatten(0, 1)).unflatten(0, (len(images), targets))
                for gradient in torch.autograd.grad(features, outputs, slopes)
            ]
        found = []
        for layer, output, gradient in zip(self.target_layers, outputs, gradients, strict=True):
            output = output.detach()[:, 0]
            activations = self.shown(output).unflatten(0, (len(images), -1))[:, :1].to(directions)
            require_finite(activations, f"activations of {type(layer).__name__}")
            if gradient is not None:
                gradient = gradient.to(directions)
                require_finite(gradient, f"gradients at {type(layer).__name__}")
            record = Record(layer, output, images, directions, activations, gradient)
            maps = self.combine(self.weights(record), record.activations, eigen_smooth)
            found.append(maps.expand(-1, targets, -1, -1))
        return found

    def shown(self, output: Tensor) -> Float[Tensor, "image channel row column"]:
        """What a layer puts out, as maps of channels."""
        if self.reshape_transform is not None:
            output = self.reshape_transform(output)
        if output.ndim != 4:
            raise ValueError(
                "a target layer must put out [image, channel, row, column], or reshape_transform "
                f"make such of it; got {list(output.shape)}"
            )
        return output

    def weights(self, record: Record) -> Float[Tensor, "image target channel #row #column"]:
        """How much each channel (or each of its cells) speaks for each target."""
        raise NotImplementedError

    def combine(
        self,
        weights: Float[Tensor, "image target channel #row #column"],
        activations: Float[Tensor, "image 1 channel row column"],
        eigen_smooth: bool,
    ) -> Maps:
        """One map of the weighted channels: their sum, or smoother, their principal component."""
        if eigen_smooth:
            return principal_component(weights * activations)
        if weights.shape[-2:] == (1, 1):
            return torch.einsum("bkc,bchw->bkhw", weights[..., 0, 0], activations[:, 0])
        return (weights * activations).sum(2)

    def run(
        self, images: Tensor, copies: int = 1, before_other_hooks: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """The features [image * copy, feature], and what the target layers put out, [image, copy,
        channel, row, column].

        The graph, if gradients are needed, begins at the images if they ask for it, or else at the
        first target layer. From there on there are `copies` of every image, one for each target:
        so one way back is enough for all targets.
        """
        outputs: dict[int, Tensor] = {}

        def keep(index: int, output: Tensor) -> Tensor:
            require_tensor(output, f"target layer number {index} must put out a tensor")
            output = output.clone()  # others may work in place on what the layer put out
            if self.uses_gradients and not output.requires_grad:
                torch.set_grad_enabled(True)  # until the end of the run
                shape = len(output), copies, *output.shape[1:]
                outputs[index] = output.unsqueeze(1).expand(shape).requires_grad_()
            else:
                outputs[index] = output.unflatten(0, (-1, copies))
            return outputs[index].clone().flatten(0, 1)  # the layers above may work in place

        reading = hooked(self.target_layers, keep, before_other_hooks)
        with torch.set_grad_enabled(images.requires_grad), reading:
            features = self.model(images)
        require_tensor(features, "the model must return an embedding [image, feature]")
        if len(outputs) < len(self.target_layers):
            raise ValueError(
                "a target layer takes no part in the model's forward pass, or what replaced a "
                "forward reaches it in a way that cannot be followed"
            )
        return features, [outputs[index] for index in range(len(self.target_layers))]

    def smooth_maps(self, images: Tensor, directions: Tensor, eigen_smooth: bool) -> list[Maps]:
        require_images(images)
        variants = []
        for mirrored in (False, True):
            seen = images.flip(-1) if mirrored else images
            for factor in (0.9, 1.0, 1.1):
                maps = self.maps(factor * seen, directions, eigen_smooth)
                maps = [layer.flip(-1) if mirrored else layer for layer in maps]
                variants.append([normalise_maps(layer) for layer in maps])
        return [torch.stack(layer).mean(0) for layer in zip(*variants, strict=True)]


class ChannelwiseCAM(BaseCAM):
    """A CAM that runs the network, or a part of it, for every channel: `batch_size` at a time."""

    uses_gradients = False
    usual_batch_size = 64

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        use_cuda: bool = False,
        batch_size: int | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__(model, target_layers, use_cuda, reshape_transform)
        self.batch_size = batch_size or self.usual_batch_size

    def batches(self, channels: Bool[Tensor, " channel"]) -> Iterable[Int[Tensor, " batch"]]:
        """The numbers of the channels that are true, with a progress bar if it takes long."""
        batches = channels.nonzero().flatten().split(self.batch_size)
        return tqdm(batches, desc=type(self).__name__, unit="batch", leave=False, delay=2)


def embedding_model(model: nn.Module) -> nn.Module:
    """The network that makes an embedding of images: the image encoder, if `model` is a CLIP."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            "model must be a network that returns an embedding [image, feature], such as "
            f"clip.visual; got {type_name(model)}"
        )
    visual = getattr(model, "visual", None)
    return visual if isinstance(visual, nn.Module) else model


def require_images(images: Tensor) -> None:
    """Raise TypeError or ValueError unless `images` are a float tensor of some images."""
    wanted = "images must be a float tensor [image, channel, height, width], as preprocess makes it"
    require_tensor(images, wanted)
    if images.ndim != 4 or not images.is_floating_point() or not len(images):
        raise ValueError(f"{wanted}, of one image or more; got {images.dtype} {list(images.shape)}")


def require_features(
    features: Float[Tensor, "image feature"], directions: Float[Tensor, "image target feature"]
) -> None:
    """Raise ValueError unless features that the model returned can be compared with the targets."""
    width = directions.shape[-1]
    if features.ndim != 2 or features.shape[1] != width:
        raise ValueError(
            f"the model returns features {list(features.shape)}, which must be [image, feature] "
            f"and as wide as the targets, {width}"
        )
    feature_lengths(features.detach())
    require_derivatives(features)


def scores_of(
    features: Float[Tensor, "*batch feature"], directions: Float[Tensor, "target feature"]
) -> Float[Tensor, "*batch target"]:
    """Similarities of changed images: 0 where nothing is left of the features, so that they point
    nowhere.
    """
    left = features.any(-1, keepdim=True)
    return similarities(features.where(left, 1), directions) * left


def principal_component(
    channels: Float[Tensor, "image target channel row column"],
) -> Float[Tensor, "image target row column"]:
    """Cells projected on the first principal component of their channels.

    The sign of a component is arbitrary: here it agrees with the sum of the channels.
    """
    cells = channels.flatten(3).mT
    cells = cells - cells.mean(2, keepdim=True)
    left, scale, _ = torch.linalg.svd(cells, full_matrices=False)
    projection = left[..., 0] * scale[..., :1]
    agrees = (projection * cells.sum(-1)).sum(-1, keepdim=True) >= 0
    return torch.where(agrees, projection, -projection).unflatten(-1, channels.shape[-2:])

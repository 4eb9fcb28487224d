"""What all CAMs share: running the network, the targets, and the sum over channels.

A CAM weighs the channels of a layer's activations A by how much they speak for the target and adds
them up: relu(Σ_c w_c A_c). A method is the weight. The network below the layer runs once, without
autograd; only what lies above it is differentiated, for all targets at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from maps import normalise_maps
from objective import for_each_image, objective_slopes, target_directions
from pytorch_grad_cam.hooks import hooked

Maps = Float[Tensor, "image target row column"]


@dataclass(frozen=True)
class Record:
    """One run of the network, as it looks from one target layer."""

    layer: nn.Module
    images: Float[Tensor, "image 3 height width"]
    directions: Float[Tensor, "image target feature"]
    activations: Float[Tensor, "image 1 channel row column"]
    gradients: Float[Tensor, "image target channel row column"] | None  # of the objective


class BaseCAM:
    """Where in an image does its similarity to a target come from, as a layer's channels tell?

    model: any CNN that returns an embedding [image, feature], such as `clip.visual`; it is put into
        evaluation mode.
    target_layers: modules of the model whose output is [image, channel, row, column], such as
        `[model.layer4[-1]]`.
    use_cuda: move the model to the GPU; otherwise it stays where it is.

    A method defines `weights`, and says whether it needs gradients.
    """

    uses_gradients = True

    def __init__(
        self, model: nn.Module, target_layers: Sequence[nn.Module], use_cuda: bool = False
    ):
        target_layers = list(target_layers)
        modules = set(model.modules())
        if not target_layers or not all(layer in modules for layer in target_layers):
            raise ValueError(
                "target_layers must be a list of modules of the model, such as [model.layer4[-1]]; "
                f"got {[type(layer).__name__ for layer in target_layers]}"
            )
        self.model = (model.cuda() if use_cuda else model).eval()
        self.target_layers = target_layers

    def __enter__(self) -> "BaseCAM":
        return self

    def __exit__(self, *exception) -> None:
        """Nothing to undo: hooks live only as long as a call."""

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

        Raises ValueError on input of wrong shape, width or value.
        """
        if target_category is not None:
            raise ValueError("target_category is not used: give the target as target_encoding")
        width = getattr(self.model, "output_dim", None)
        directions = target_directions(target_encoding, width)
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
        weight = next(self.model.parameters())
        # Autograd is needed even where the caller has switched it off for good; copies forget that.
        with torch.inference_mode(False), torch.no_grad():
            images = images.detach().to(weight, copy=images.is_inference())
            directions = for_each_image(directions, images, weight)
            return self.explain(images, directions, eigen_smooth)

    def explain(self, images: Tensor, directions: Tensor, eigen_smooth: bool) -> list[Maps]:
        targets = directions.shape[1]
        try:
            features, outputs = self.run(images, targets if self.uses_gradients else 1)
        except RuntimeError:  # a way around the layer, inside a residual block, lacks the copies
            features, outputs = self.run(images.repeat_interleave(targets, 0))
        gradients = [None] * len(outputs)
        if self.uses_gradients:
            slopes = objective_slopes(features.detach(), directions.flatten(0, 1).unsqueeze(1))[0]
            gradients = torch.autograd.grad(features, outputs, slopes)
            gradients = [
                gradient.reshape(len(images), targets, *gradient.shape[2:]).to(directions)
                for gradient in gradients
            ]
        found = []
        for layer, output, gradient in zip(self.target_layers, outputs, gradients, strict=True):
            activations = output.detach().reshape(len(images), -1, *output.shape[2:])[:, :1]
            record = Record(layer, images, directions, activations.to(directions), gradient)
            maps = self.combine(self.weights(record), record.activations, eigen_smooth)
            found.append(maps.expand(-1, targets, -1, -1).relu())
        return found

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

    def run(self, images: Tensor, copies: int = 1) -> tuple[Tensor, list[Tensor]]:
        """The features [image * copy, feature], and what the target layers put out, [image, copy,
        channel, row, column].

        The graph, if gradients are needed, begins at the images if they ask for it, or else at the
        first target layer. From there on there are `copies` of every image, one for each target:
        so one way back is enough for all targets.
        """
        outputs: dict[int, Tensor] = {}

        def keep(index: int, output: Tensor) -> Tensor:
            if not isinstance(output, Tensor) or output.ndim != 4:
                raise ValueError(
                    "a target layer must put out [image, channel, row, column]; "
                    f"{type(self.target_layers[index]).__name__} does not"
                )
            if self.uses_gradients and not output.requires_grad:
                torch.set_grad_enabled(True)  # until the end of the run
                shape = len(output), copies, *output.shape[1:]
                outputs[index] = output.detach().unsqueeze(1).expand(shape).requires_grad_()
            else:
                outputs[index] = output.unflatten(0, (-1, copies))
            return outputs[index].clone().flatten(0, 1)  # the layers above may work in place

        with torch.set_grad_enabled(images.requires_grad), hooked(self.target_layers, keep):
            features = self.model(images)
        if len(outputs) < len(self.target_layers):
            raise ValueError("a target layer takes no part in the model's forward pass")
        return features, [outputs[index] for index in range(len(self.target_layers))]

    def smooth_maps(self, images: Tensor, directions: Tensor, eigen_smooth: bool) -> list[Maps]:
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
    ):
        super().__init__(model, target_layers, use_cuda)
        self.batch_size = batch_size or self.usual_batch_size

    def batches(self, channels: Bool[Tensor, " channel"]) -> Iterable[Int[Tensor, " batch"]]:
        """The numbers of the channels that are true, with a progress bar if it takes long."""
        batches = channels.nonzero().flatten().split(self.batch_size)
        return tqdm(batches, desc=type(self).__name__, unit="batch", leave=False, delay=2)


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

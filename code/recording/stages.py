"""What CAMs need of a convolutional network that is not ours: its last stage, and what to call."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recording.encoders import Encoder, Images
from recording.runs import NoAttention, Run
from recording.twins import follow, twins


class Encoded(nn.Module):
    """An encoder as a module that returns features."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.model, self.encode = encoder.model, encoder.encode

    def forward(self, images: Images) -> Float[Tensor, "image feature"]:
        return self.encode(images)


def last_stage(encoder: Encoder, images: Float[Tensor, "image 3 height width"]) -> nn.Module:
    """The module behind which the features of cells are pooled: the last to return a map of more
    than one cell. Raises ValueError for a network that attends, or in which there is none.
    """
    example = encoder.placed(images[:1])
    if attends(encoder, example):
        raise ValueError("CAMs are for convolutional networks; this model attends")
    of = twins(encoder.model)
    found = []

    def keep(module: nn.Module, _inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-2:].numel() > 1:
            found.append(module)

    for twin in [twin for twin in of.values() if isinstance(twin, nn.Module)]:
        if not isinstance(twin, torch.jit.ScriptModule):
            twin.register_forward_hook(keep)
    with torch.no_grad():
        follow(encoder.encode, of)(example)
    if not found:
        raise ValueError("no module of this model returns a map of cells: there is nothing to show")
    return next(module for module, twin in of.items() if twin is found[-1])


def attends(encoder: Encoder, images: Images) -> bool:
    """Whether the tokens of a network attend to each other; it runs once."""
    try:
        Run(encoder, images).read()
    except NoAttention:
        return False
    return True

"""What CAMs need of a convolutional network that is not ours: its last stage, and what to call."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recording.encoders import Encoder, Images
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
    than one cell.

    Raises ValueError for a network in which there is no map of cells, one that goes on to mix
    cells, as tokens, in further blocks, and one whose maps are laid out otherwise.
    """
    of = twins(encoder.model)
    lists = [twin for twin in of.values() if isinstance(twin, nn.ModuleList | nn.Sequential)]
    passed = Passed({member for members in lists for member in members})
    for twin in [twin for twin in of.values() if isinstance(twin, nn.Module)]:
        if not isinstance(twin, torch.jit.ScriptModule):
            twin.register_forward_hook(passed.keep)
    with torch.no_grad():
        follow(encoder.encode, of)(encoder.placed(images[:1]))
    if passed.last is None:
        raise ValueError("no module of this model returns a map of cells: there is nothing to show")
    if passed.mixes:
        raise ValueError(
            "this model neither attends in a way that can be read nor convolves to the end: behind "
            "its last map of cells, blocks mix tokens"
        )
    if passed.is_laid_out_otherwise():
        raise ValueError(
            f"the last map in this model, {list(passed.cells)}, is not [image, channel, row, "
            f"column], as the last that its convolutions make, {list(passed.convolved)}"
        )
    return next(module for module, twin in of.items() if twin is passed.last)


class Passed:
    """What the modules of a network returned: the last map of cells, and what came behind."""

    def __init__(self, members: set[nn.Module]):
        self.members = members  # of lists of modules
        self.last: nn.Module | None = None
        self.cells, self.convolved = torch.Size(), torch.Size()
        self.mixes = False

    def keep(self, module: nn.Module, _inputs: tuple, output: object) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(first, Tensor):
            return
        if first is output and output.ndim == 4 and output.shape[-2:].numel() > 1:
            self.last, self.cells, self.mixes = module, output.shape, False
            if isinstance(module, nn.Conv2d):
                self.convolved = self.cells
        elif first.ndim == 3 and module in self.members:
            self.mixes = True

    def is_laid_out_otherwise(self) -> bool:
        """Whether neither the channels nor the cells are those of the last convolution."""
        if not self.convolved:
            return False
        (_, channels, *cells), (_, convolved, *grid) = self.cells, self.convolved
        return channels != convolved and cells != grid

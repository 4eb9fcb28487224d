"""A folder of pictures with masks as a set to measure on, laid out as `Images/` is.

    <folder>/<name>.<png|jpg|...>            a picture
    <folder>/masks/<name>/<object>.png       bright where that object is seen

The prompt of an object is its file's name in a template, "a {}".
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import CenterCrop, Compose, InterpolationMode, Resize

from evaluation.scene_sets import SceneBatch
from image_utils import image_files, open_image


class MaskedFolder:
    """The pictures of a folder that have masks.

    Raises FileNotFoundError if there are none.
    """

    def __init__(self, folder: str | Path, preprocess: Callable, size: int, template: str = "a {}"):
        self.folder = Path(folder)
        self.preprocess = preprocess
        self.cut = Compose([Resize(size, InterpolationMode.NEAREST), CenterCrop(size)])
        masks = {
            path: image_files(self.folder / "masks" / path.stem) for path in image_files(folder)
        }
        self.masks = {path: found for path, found in masks.items() if found}
        if not self.masks:
            raise FileNotFoundError(
                f"no pictures with masks in {self.folder}: for horse.png there must be "
                "masks/horse/<object>.png"
            )
        names = sorted({mask.stem for found in self.masks.values() for mask in found})
        self.prompts = [template.format(name) for name in names]
        self.index = {name: place for place, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self.masks)

    def __iter__(self) -> Iterator[SceneBatch]:
        """One picture at a time, with all its objects."""
        for path, found in self.masks.items():
            masks = [np.array(self.cut(open_image(mask).convert("L"))) > 127 for mask in found]
            yield SceneBatch(
                self.preprocess(open_image(path)).unsqueeze(0),
                torch.tensor([[self.index[mask.stem] for mask in found]]),
                torch.from_numpy(np.stack(masks)).unsqueeze(0),
            )

"""A folder of pictures with masks as a set to measure on, laid out as `Images/` is.

    <folder>/<name>.<png|jpg|...>            a picture
    <folder>/masks/<name>/<object>.png       bright where that object is seen; see `read_mask`

The prompt of an object is its file's name in a template, "a {}".
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from clip_ import to_rgb
from evaluation.scene_sets import SceneBatch
from image_utils import image_files, open_image, read_mask
from preprocessing import OPENAI, Preprocessing

OUTSIDE = "outside of the middle square that the model sees"


class MaskedFolder:
    """The pictures of a folder that have masks, all of which are looked at before any is measured.

    preprocess, size: of the model, which sees a square of so many pixels.
    preprocessing: what `preprocess` was made of.

    Raises FileNotFoundError if there are none, and ValueError if a mask is not its picture's (see
    `read_mask`), if two files claim one name, and if the model sees no object at all.
    """

    def __init__(
        self,
        folder: str | Path,
        preprocess: Callable,
        size: int,
        template: str = "a {}",
        preprocessing: Preprocessing = OPENAI,
    ):
        self.folder = Path(folder)
        self.preprocess, self.size, self.preprocessing = preprocess, size, preprocessing
        masks = {
            path: image_files(self.folder / "masks" / path.stem) for path in image_files(folder)
        }
        masks = {path: found for path, found in masks.items() if found}
        if not masks:
            raise FileNotFoundError(
                f"no pictures with masks in {self.folder}: for horse.png there must be "
                "masks/horse/<object>.png"
            )
        stems = {path.stem for path in masks}
        folders = sorted(path for path in (self.folder / "masks").iterdir() if path.is_dir())
        self.astray = [path for path in folders if path.stem not in stems]  # without a picture
        for files in (list(masks), *masks.values()):
            refuse_doubles(files)
        self.masks, self.outside = {}, []  # the latter: of objects that the model does not see
        for path, found in masks.items():
            seen = self._seen(path, found).flatten(1).any(1)
            for mask, inside in zip(found, seen, strict=True):
                if inside:
                    self.masks.setdefault(path, []).append(mask)
                else:
                    self.outside.append(mask)
        if not self.masks:
            raise ValueError(
                f"every object in {self.folder} lies outside of what the model sees, the middle "
                "square of a picture"
            )
        names = sorted({mask.stem for found in self.masks.values() for mask in found})
        self.prompts = [template.replace("{}", name) for name in names]
        self.index = {name: place for place, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self.masks)

    def __iter__(self) -> Iterator[SceneBatch]:
        """One picture at a time, with all its objects."""
        for path, found in self.masks.items():
            yield SceneBatch(
                self.preprocess(open_image(path)).unsqueeze(0),
                torch.tensor([[self.index[mask.stem] for mask in found]]),
                self._seen(path, found).unsqueeze(0),
            )

    def _seen(self, path: Path, masks: list[Path]) -> Bool[Tensor, "object row column"]:
        """Where the objects of a picture are in what the model sees of it."""
        width, height = to_rgb(open_image(path)).size
        seen = partial(
            read_mask,
            size=(self.size, self.size),
            picture=(height, width),
            preprocessing=self.preprocessing,
        )
        return torch.stack([seen(mask) for mask in masks])

    def left_out(self) -> list[str]:
        """What is not measured, and why."""
        said = []
        if self.astray:
            said.append(f"{listed(self.astray)}: masks without a picture")
        if self.outside:
            said.append(f"{listed(self.outside)}: {OUTSIDE}")
        return said

    def shows_everything(self) -> bool:
        """Whether no object is absent from any picture."""
        return all(len(masks) == len(self.prompts) for masks in self.masks.values())

    def digest(self) -> str:
        """Of what is measured: the names and the bytes of all pictures and masks."""
        found = hashlib.sha256()
        for path, masks in self.masks.items():
            for file in (path, *masks):
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                found.update(f"{file.relative_to(self.folder)} {content}\n".encode())
        return found.hexdigest()


def listed(paths: list[Path]) -> str:
    """How many, and the first few of them."""
    names = [f"{path.parent.name}/{path.name}" for path in paths[:10]]
    return f"{len(paths)} ({', '.join(names)}{', ...' * (len(paths) > 10)})"


def refuse_doubles(files: list[Path]) -> None:
    """Raise ValueError for two files that differ in their endings alone."""
    first: dict[str, Path] = {}
    for file in files:
        if first.setdefault(file.stem, file) != file:
            raise ValueError(
                f"{first[file.stem]} and {file.name} have one name: rename one, or remove it"
            )

"""Batches of pictures from a folder: of pickles `batch0.bin`, `batch1.bin`, ..., or of images.

A pickle is read without executing anything: it may hold tensors, arrays and plain containers, and
whatever else it names is refused. One batch is in memory at a time.
"""

import io
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoints.tensor_pickles import ForeignName, Stored, kind, read_pickle, reason
from clip_ import make_preprocess
from image_utils import image_files, open_image

Batch = dict[str, Tensor]
BATCH = 40
REPEATS = 10  # so many times may a file's values refer to the same bytes


class Pickle_data_loader:
    """Iterates over batches, dicts of tensors whose first axis counts the samples.

    path: a folder that holds
        either `batch{i}.bin`, i = 0, 1, ...: pickled dicts, such as {"image": [40, 3, 224, 224],
        "label": [40, 9]};
        or images, in batches of 40: {"image": as `preprocess` makes them}; where they lie in
        folders by class, with {"label": one-hot in the order of `classes`}.
    num_samples: whole batches are given until there are so many samples, or no more batches.
    transformations: functions from batch to batch, applied to each in order.
    seed: of the order in which iterating goes through the batches (of a folder of images: through
        the images), the same every time.
    preprocess: for images, from a PIL image to a tensor; by default OpenAI's at 224 pixels.

    Raises FileNotFoundError for a folder that is missing or empty, ValueError for a file that is
    cut off or holds anything else.
    """

    def __init__(
        self,
        path: str | Path,
        num_samples: int,
        transformations: Sequence[Callable[[Batch], Batch]] | None = None,
        seed: int = 0,
        preprocess: Callable | None = None,
    ):
        self.path = Path(path)
        self.num_samples = num_samples
        self.transformations = list(transformations or [])
        self.preprocess = preprocess or make_preprocess(224)
        self.classes: list[str] = []
        self.batches = self._pickles() or self._images(seed)
        if not self.batches:
            raise FileNotFoundError(
                f"nothing to load: {self.path} "
                + (
                    "holds neither batch0.bin nor images"
                    if self.path.is_dir()
                    else "does not exist"
                )
            )
        self.order = list(range(len(self.batches)))
        random.Random(seed).shuffle(self.order)

    def __len__(self) -> int:
        """Number of batches there are."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        given = 0
        for number in self.order:
            if given >= self.num_samples:
                return
            batch = self.load_batch(number)
            given += len(next(iter(batch.values())))
            yield batch

    def load_batch(self, batch_number: int) -> Batch:
        """One batch by its number, transformed."""
        if not 0 <= batch_number < len(self):
            raise IndexError(f"no batch {batch_number}: there are {len(self)} in {self.path}")
        batch = self.batches[batch_number]()
        for transformation in self.transformations:
            batch = transformation(batch)
        return batch

    def load_label(self, label: int, batch_size: int = BATCH) -> dict[str, Tensor]:
        """One sample by its number, counted through batches of `batch_size`."""
        number, place = divmod(label, batch_size)
        return {key: values[place] for key, values in self.load_batch(number).items()}

    def add_transformation(self, new_transformation: Callable[[Batch], Batch]) -> None:
        """Apply this to every batch too, after the others."""
        self.transformations.append(new_transformation)

    def _pickles(self) -> list[Callable[[], Batch]]:
        paths = {path.name: path for path in self.path.glob("batch*.bin")}
        numbered = [paths.get(f"batch{number}.bin") for number in range(len(paths))]
        if None in numbered:
            raise FileNotFoundError(
                f"batches must be numbered from batch0.bin without gaps; {self.path} holds "
                f"{', '.join(sorted(paths))}"
            )
        return [partial(read_batch, path) for path in numbered]

    def _images(self, seed: int) -> list[Callable[[], Batch]]:
        folders = sorted(child for child in self.path.glob("*") if child.is_dir())
        found = [(path, None) for path in image_files(self.path)]
        if not found:
            self.classes = [folder.name for folder in folders if image_files(folder)]
            found = [
                (path, index)
                for index, name in enumerate(self.classes)
                for path in image_files(self.path / name)
            ]
        random.Random(seed).shuffle(found)
        parts = [found[start : start + BATCH] for start in range(0, len(found), BATCH)]
        return [partial(self._read_images, part) for part in parts]

    def _read_images(self, part: list[tuple[Path, int | None]]) -> Batch:
        batch = {"image": torch.stack([self.preprocess(open_image(path)) for path, _ in part])}
        if self.classes:
            batch["label"] = torch.eye(len(self.classes))[[index for _, index in part]]
        return batch


def read_batch(path: Path) -> Batch:
    """The dict of tensors in a pickle; nothing in it is executed. ValueError if it has none."""
    data = path.read_bytes()
    try:
        content = read_pickle(io.BytesIO(data))
        _require_no_more_than(REPEATS * len(data), content)
    except ForeignName as name:
        raise ValueError(f"{path} is refused: it names {name}, which is not a tensor's") from name
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(f"{path} cannot be read: {reason(error)}") from error
    if not isinstance(content, dict) or not content:
        what = kind(content) if content else "nothing"
        raise ValueError(f"{path} must hold a dict of tensors; it holds {what}")
    try:
        batch = {key: _tensor(values) for key, values in content.items()}
        lengths = {key: len(values) for key, values in batch.items()}
    except Exception as error:
        raise ValueError(f"{path} must hold tensors, one row a sample: {reason(error)}") from error
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{path}: all entries must have one row a sample; they have {lengths}")
    return batch


def _require_no_more_than(limit: int, content: Any) -> None:
    """Raise ValueError if values that refer to each other unfold to more than `limit` bytes."""
    left, waiting = limit, [content]
    while waiting:
        value = waiting.pop()
        left -= value.nbytes if isinstance(value, Stored) else 1
        if left < 0:
            raise ValueError(f"its values repeat each other, beyond {limit:,} bytes")
        if isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()


def _tensor(values: Any) -> Tensor:
    if isinstance(values, Stored):
        return values.tensor()
    if isinstance(values, list | tuple) and any(isinstance(value, Stored) for value in values):
        return torch.stack([_tensor(value) for value in values])
    return torch.as_tensor(values)

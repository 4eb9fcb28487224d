"""Photographs with masks as their data sets lay them out, as a set to measure on.

    voc          VOCdevkit/VOC2012/        JPEGImages, SegmentationClass, ImageSets/Segmentation
    voc-boxes    VOCdevkit/VOC2007/        JPEGImages, Annotations, ImageSets/Main
    coco         coco/                     val2017, annotations/instances_val2017.json
    imagenet-s   ImageNetS919/             validation, validation-segmentation

A reader takes such a folder and the name of a split, and returns the names of all classes and a
`Photograph` for each picture. One prompt is asked for each class that a picture shows; all objects
of the class are its mask.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torchvision.datasets import CocoDetection, VOCDetection, VOCSegmentation

from clip_ import turn_of
from evaluation.folders import OUTSIDE, listed
from evaluation.scene_sets import SceneBatch
from image_utils import cut_as_picture, image_files, open_image
from preprocessing import OPENAI, Preprocessing

Mask = Bool[np.ndarray, "row column"]
# Of each class that a picture shows: where, and where that is not known.
Labels = dict[int, tuple[Mask, Mask]]


class Photograph(NamedTuple):
    """A picture's file, and what reads its labels, given the (height, width) of what the file
    stores: data sets label pixels as stored, whatever the file says of which side is up.
    """

    path: Path
    labels: Callable[[tuple[int, int]], Labels]


Reader = Callable[[Path, str], tuple[list[str], list[Photograph]]]


class DataSet:
    """Some photographs of a data set, all of which are looked at before any is measured.

    names, photographs: what a reader returned.
    most: how many photographs, drawn at random, always the same.
    Others: as of `MaskedFolder`.

    Raises ValueError if labels are not of the size of their picture, and if the model sees no
    object at all.
    """

    def __init__(
        self,
        names: list[str],
        photographs: list[Photograph],
        most: int,
        preprocess: Callable,
        size: int,
        template: str = "a photo of a {}",
        preprocessing: Preprocessing = OPENAI,
    ):
        self.preprocess, self.size, self.preprocessing = preprocess, size, preprocessing
        self.prompts = [template.replace("{}", name) for name in names]
        order = np.random.default_rng(0).permutation(len(photographs))[:most]
        self.classes: list[tuple[Photograph, list[int]]] = []  # those that the model sees
        self.outside, self.contents = [], hashlib.sha256()
        for photograph in (photographs[number] for number in order):
            seen = self._seen(photograph)
            classes = [number for number, (mask, _) in seen.items() if mask.any()]
            self.outside += [
                photograph.path / names[number] for number in seen if number not in classes
            ]
            if classes:
                self.classes.append((photograph, classes))
            self.contents.update(photograph.path.read_bytes())
            for number, regions in seen.items():
                self.contents.update(f"{number}".encode() + torch.stack(regions).numpy().tobytes())
        if not self.classes:
            raise ValueError(f"no object of the {len(order)} pictures is in what the model sees")

    def __len__(self) -> int:
        return len(self.classes)

    def __iter__(self) -> Iterator[SceneBatch]:
        """One picture at a time, with all classes that are seen in it."""
        for photograph, classes in self.classes:
            seen = self._seen(photograph)
            masks, unknown = zip(*(seen[number] for number in classes), strict=True)
            yield SceneBatch(
                self.preprocess(open_image(photograph.path)).unsqueeze(0),
                torch.tensor([classes]),
                torch.stack(masks).unsqueeze(0),
                torch.stack(unknown).unsqueeze(0),
            )

    def _seen(self, photograph: Photograph) -> dict[int, tuple[Tensor, Tensor]]:
        """The labels, as far as the model sees the picture."""
        picture = open_image(photograph.path)
        size, turn = (picture.height, picture.width), turn_of(picture)

        def seen(region: Mask) -> Bool[Tensor, "row column"]:
            if region.shape != size:
                raise ValueError(
                    f"{photograph.path} has {size[1]}x{size[0]} pixels, and its labels "
                    f"{region.shape[1]}x{region.shape[0]}: they must be of the same picture"
                )
            image = PIL.Image.fromarray(region)
            image = image if turn is None else image.transpose(turn)
            return torch.from_numpy(np.array(cut_as_picture(image, self.size, self.preprocessing)))

        found = photograph.labels(size)
        return {number: (seen(mask), seen(unknown)) for number, (mask, unknown) in found.items()}

    def left_out(self) -> list[str]:
        """What is not measured, and why."""
        return [f"{listed(self.outside)}: {OUTSIDE}"] if self.outside else []

    def shows_everything(self) -> bool:
        """Whether no class is absent from any picture."""
        return all(len(classes) == len(self.prompts) for _, classes in self.classes)

    def digest(self) -> str:
        """Of what is measured: the bytes of all pictures, and their labels as they are seen."""
        return self.contents.hexdigest()


# Pascal VOC

# In the order of their numbers, from 1; the data set writes them without spaces.
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa"),
    *("train", "tv monitor"),
)
VOC_UNKNOWN = 255  # borders and difficult objects: "void", left out of the VOC's own evaluation


def voc(folder: Path, split: str) -> tuple[list[str], list[Photograph]]:
    """Pascal VOC with its masks of classes."""
    found = voc_split(VOCSegmentation, folder, split, "Segmentation", "SegmentationClass/*.png")
    pairs = zip(map(Path, found.images), map(Path, found.masks), strict=True)
    return list(VOC_CLASSES), [Photograph(image, partial(voc_masks, mask)) for image, mask in pairs]


def voc_masks(path: Path, size: tuple[int, int]) -> Labels:
    image = open_image(path)
    numbers = np.asarray(image)
    allowed = (*range(len(VOC_CLASSES) + 1), VOC_UNKNOWN)
    if image.mode not in ("P", "L") or not np.isin(numbers, allowed).all():
        raise ValueError(
            f"{path} must hold the numbers of classes, 0 to 20 and 255, as a palette's indices "
            f"(mode P), as Pascal VOC has them; it is of mode {image.mode}"
        )
    unknown = numbers == VOC_UNKNOWN
    return {int(n) - 1: (numbers == n, unknown) for n in np.unique(numbers[~unknown]) if n}


def voc_boxes(folder: Path, split: str) -> tuple[list[str], list[Photograph]]:
    """Pascal VOC with its boxes, of more pictures: a mask is what the boxes of a class cover. Where
    only difficult objects are is unknown: the VOC's own evaluation leaves them out.
    """
    found = voc_split(VOCDetection, folder, split, "Main", "Annotations/*.xml")
    return list(VOC_CLASSES), [
        Photograph(Path(image), partial(voc_rectangles, found, number))
        for number, image in enumerate(found.images)
    ]


def voc_rectangles(found: VOCDetection, number: int, size: tuple[int, int]) -> Labels:
    path = Path(found.annotations[number])
    require(path)
    objects = found[number][1]["annotation"]["object"]
    regions: Labels = {}
    for thing in objects:
        names = [name.replace(" ", "") for name in VOC_CLASSES]
        if thing["name"] not in names:
            raise ValueError(f"{path} has a {thing['name']!r}, which is no class of Pascal VOC")
        ends = ("xmin", "ymin", "xmax", "ymax")
        left, top, right, bottom = (round(float(thing["bndbox"][end])) for end in ends)
        pair = regions.setdefault(
            names.index(thing["name"]), (np.zeros(size, bool), np.zeros(size, bool))
        )
        # Pixels are counted from 1, and the last is part of the box.
        pair[thing.get("difficult") == "1"][top - 1 : bottom, left - 1 : right] = True
    return {one: (mask, unknown & ~mask) for one, (mask, unknown) in regions.items() if mask.any()}


def voc_split(kind: type, folder: Path, split: str, lists: str, labels: str):
    """torchvision's reader of a folder of one year, which finds it by the folders above."""
    folder = Path(folder).absolute()
    above = ("TrainVal", "VOCdevkit") if folder.name == "VOC2011" else ("VOCdevkit",)
    named = folder.name.startswith("VOC2") and folder.parts[-1 - len(above) : -1] == above
    if not named or not (folder / "ImageSets" / lists / f"{split}.txt").is_file():
        raise FileNotFoundError(
            f"{folder} is not laid out as Pascal VOC: it must be called {'/'.join(above)}/VOC2012, "
            f"or by another year, and hold JPEGImages/*.jpg, {labels} and "
            f"ImageSets/{lists}/{split}.txt"
        )
    root = folder.parents[len(above)]
    found = kind(root, folder.name.removeprefix("VOC"), split)
    for path in (*found.images, *found.targets):
        require(Path(path))
    return found


# COCO


def coco(folder: Path, split: str) -> tuple[list[str], list[Photograph]]:
    """COCO's instances. Where a crowd of a class is, is unknown for that class: COCO's own
    evaluation leaves it out. A class that a picture shows only as a crowd is not asked for.
    """
    folder = Path(folder)
    annotations = folder / "annotations" / f"instances_{split}.json"
    if not annotations.is_file() or not (folder / split).is_dir():
        raise FileNotFoundError(
            f"{folder} is not laid out as COCO: it must hold {split}/*.jpg and "
            f"annotations/instances_{split}.json"
        )
    try:
        with redirect_stdout(None):
            found = CocoDetection(folder / split, str(annotations))
    except ImportError as error:
        raise ValueError(
            f"COCO is read by pycocotools: pip install pycocotools ({error})"
        ) from None
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"{annotations} is not an annotation file of COCO: {error!r}") from error
    if not (found.coco.imgs and found.coco.cats):
        raise ValueError(f"{annotations} lists no pictures, or no classes")
    categories = {one: place for place, one in enumerate(sorted(found.coco.cats))}
    names = [found.coco.cats[one]["name"] for one in categories]
    photographs = []
    for image in found.ids:
        things = found.coco.imgToAnns[image]
        if any(not thing.get("iscrowd") for thing in things):
            path = folder / split / found.coco.imgs[image]["file_name"]
            require(path)
            photographs.append(
                Photograph(path, partial(coco_masks, found.coco, things, categories))
            )
    return names, photographs


def coco_masks(reader, things: list[dict], categories: dict[int, int], size) -> Labels:
    regions: dict[int, list[Mask]] = {}
    for thing in things:
        mask = reader.annToMask(thing).astype(bool)
        pair = regions.setdefault(
            categories[thing["category_id"]], [np.zeros_like(mask), np.zeros_like(mask)]
        )
        pair[bool(thing.get("iscrowd"))] |= mask
    return {one: (mask, unknown & ~mask) for one, (mask, unknown) in regions.items() if mask.any()}


# ImageNet-S

IMAGENET_S = (50, 300, 919)  # classes of its three versions
IMAGENET_S_UNKNOWN = 1000  # "ignored part"


def imagenet_s(folder: Path, split: str) -> tuple[list[str], list[Photograph]]:
    """ImageNet-S (Gao et al., TPAMI 2023): colours of masks are numbers, R + 256 G, of the classes'
    WordNet ids in order, from 1; 0 is everything else. Classes are called as CLIP's authors do.
    """
    folder = Path(folder)
    ids = sorted(path.name for path in (folder / split).glob("n*") if path.is_dir())
    if len(ids) not in IMAGENET_S or not (folder / f"{split}-segmentation").is_dir():
        raise FileNotFoundError(
            f"{folder} is not laid out as ImageNet-S: it must hold {split}/<WordNet id>/*.JPEG and "
            f"{split}-segmentation/<WordNet id>/*.png, with the folders of all 50, 300 or 919 "
            f"classes, whose order gives them their numbers; it has {len(ids)}"
        )
    names = imagenet_names()
    unknown = [one for one in ids if one not in names]
    if unknown:
        raise ValueError(f"{folder / split} has folders of no class of ImageNet: {unknown[:5]}")
    photographs = []
    for one in ids:
        for path in image_files(folder / split / one):
            mask = folder / f"{split}-segmentation" / one / f"{path.stem}.png"
            require(mask)
            photographs.append(Photograph(path, partial(imagenet_s_masks, mask, len(ids))))
    return [names[one] for one in ids], photographs


def imagenet_s_masks(path: Path, classes: int, size: tuple[int, int]) -> Labels:
    image = open_image(path)
    if image.mode != "RGB":
        raise ValueError(
            f"{path} must be RGB, its numbers of classes R + 256 G, as ImageNet-S has them; it is "
            f"of mode {image.mode}"
        )
    colours = np.asarray(image).astype(int)
    numbers: Int[np.ndarray, "row column"] = colours[..., 0] + 256 * colours[..., 1]
    unknown = numbers == IMAGENET_S_UNKNOWN
    found = np.unique(numbers[~unknown])
    if (found > classes).any() or colours[..., 2].any():
        raise ValueError(f"{path} has numbers of no class, there are {classes}: {found[-5:]}")
    return {int(number) - 1: (numbers == number, unknown) for number in found if number}


def imagenet_names() -> dict[str, str]:
    """WordNet id -> name, of ImageNet's 1,000 classes, in the order of their ids."""
    try:
        from open_clip import IMAGENET_CLASSNAMES
        from timm.data import ImageNetInfo
    except ImportError as error:
        raise ValueError(
            f"names of ImageNet's classes are open_clip's: pip install open_clip_torch ({error})"
        ) from None
    return dict(zip(ImageNetInfo("imagenet-1k").label_names(), IMAGENET_CLASSNAMES, strict=True))


def require(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"the data set lists a file that is not there: {path}")


FORMATS: dict[str, tuple[Reader, str]] = {  # with the split by default
    "voc": (voc, "val"),
    "voc-boxes": (voc_boxes, "val"),
    "coco": (coco, "val2017"),
    "imagenet-s": (imagenet_s, "validation"),
}

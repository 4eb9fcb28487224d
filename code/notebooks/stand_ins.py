"""Faces and paintings that may not be redistributed, when they are there; else scenes drawn by us.

A stand-in has what the data set lacks: the mask of the face, or of the object with the emotion.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from experiment import IMAGES
from jaxtyping import Bool, Float
from torch import Tensor

from embedded.scenes import HELD_OUT_STYLE, draw_scene
from evaluation.scene_sets import as_batch
from explainer import Explainer
from image_utils import image_files
from pickle_loader import Pickle_data_loader

AFFECTNET, WIKIART = IMAGES / "affectnet_samples", IMAGES / "wikiart"
FACES = ("neutral", "happy", "sad", "surprised", "afraid", "disgusted", "angry")
# What in a stand-in for a painting evokes each emotion of ArtEmis.
EVOKED_BY = {
    "amusement": ("laughing", "clown"),
    "awe": ("surprised", "rainbow", "rocket"),
    "contentment": ("happy", "sleepy", "coffee"),
    "excitement": ("gift", "balloon"),
    "anger": ("angry",),
    "disgust": ("disgusted",),
    "fear": ("afraid", "skull", "ghost"),
    "sadness": ("sad", "crying"),
    "something else": ("neutral",),
}
BESIDE = (
    "tree",
    "house",
    "car",
    "cow",
    "sailboat",
    "umbrella",
    "book",
    "chicken",
    "apple",
    "cloud",
)


@dataclass(frozen=True)
class Pictures:
    """Pictures of one emotion."""

    emotion: str
    images: Float[Tensor, "image 3 row column"]
    masks: Bool[Tensor, "image row column"] | None  # of what shows it, in a stand-in


def load_faces(explainer: Explainer, stand_ins: int, folder: Path = AFFECTNET) -> list[Pictures]:
    """Faces by emotion: the folders in `folder`, or so many emoji faces an emotion.

    Raises FileNotFoundError for a folder without pictures.
    """
    if folder.is_dir():
        found = []
        for emotion in sorted(child for child in folder.iterdir() if child.is_dir()):
            paths = image_files(emotion)
            if not paths:
                raise FileNotFoundError(f"no images in {emotion}")
            found.append(Pictures(emotion.name, explainer.read(*paths), None))
        if not found:
            raise FileNotFoundError(f"{folder} must hold a folder of images for each emotion")
        return found
    # Anywhere in the picture: where maps are bright in the mean is not the data's doing.
    return [drawn(explainer, face, ((face,),), stand_ins, (0.2, 0.35)) for face in FACES]


def load_paintings(
    explainer: Explainer, stand_ins: int, emotions: list[str], folder: Path = WIKIART
) -> list[Pictures]:
    """Paintings by the emotion that most annotators named: batches of pickles or images in
    `folder`, or so many scenes an emotion, one object that evokes it among others that do not.
    """
    if not folder.is_dir():
        return [drawn(explainer, name, around(EVOKED_BY[name]), stand_ins) for name in emotions]
    loader = Pickle_data_loader(folder, stand_ins * len(emotions), preprocess=explainer.preprocess)
    images, labels = [], []
    for batch in loader:
        images.append(batch["image"].float())
        labels.append(batch["label"].argmax(1))
    images, labels = torch.cat(images), torch.cat(labels)
    names = loader.classes or emotions
    return [
        Pictures(name, images[labels == index].to(explainer.device), None)
        for index, name in enumerate(names)
        if (labels == index).any()
    ]


def around(subjects: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Each subject with two things beside it."""
    pairs = [(BESIDE[place], BESIDE[place - 1]) for place in range(len(BESIDE))]
    return tuple((subject, *pair) for subject in subjects for pair in pairs)


def drawn(
    explainer: Explainer,
    emotion: str,
    contents: tuple[tuple[str, ...], ...],
    count: int,
    scale: tuple[float, float] | None = None,
) -> Pictures:
    """Scenes in the style no embedded model has seen, of each of the contents in turn."""
    scenes = [
        draw_scene(
            (3_000_000, number, *emotion.encode()),
            size=explainer.side,
            styles=(HELD_OUT_STYLE,),
            names=contents[number % len(contents)],
            scale=scale,
        )
        for number in range(count)
    ]
    batch = as_batch(scenes, explainer.pixels)
    return Pictures(emotion, batch.images.to(explainer.device), batch.masks[:, 0])

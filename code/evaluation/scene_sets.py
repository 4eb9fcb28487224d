"""Batches of emoji scenes whose objects are known."""

from argparse import ArgumentTypeError
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from clip_ import tokenize
from embedded.scenes import HELD_OUT_STYLE, Scene, concepts, draw_scene
from image_utils import normalise_pixels
from preprocessing import OPENAI, Preprocessing

SEED = 2_000_000  # far from the scenes of training, which are numbered from 0
BATCH = 16  # as many as a CPU is quick with


@dataclass(frozen=True)
class SceneBatch:
    """Scenes as CLIP takes them, with the concept and the mask of each of their objects; of
    photographs also, where it is not known whether an object is there. Masks are False there.
    """

    images: Float[Tensor, "image 3 row column"]
    concepts: Int[Tensor, "image object"]  # indices into embedded.scenes.concepts()
    masks: Bool[Tensor, "image object row column"]
    unknown: Bool[Tensor, "image object row column"] | None = None

    def areas(self) -> Float[Tensor, "image object"]:
        """The share of what is known of an image that each object covers."""
        known = 1 if self.unknown is None else (~self.unknown).float().mean((-2, -1))
        return self.masks.float().mean((-2, -1)) / known


def scene_batches(
    count: int,
    objects: int,
    size: int,
    styles: tuple[str, ...] = (HELD_OUT_STYLE,),
    seed: int = SEED,
    preprocessing: Preprocessing = OPENAI,
) -> Iterator[SceneBatch]:
    """`count` scenes of so many objects, in batches, with a progress bar."""
    numbers = tqdm(range(count), unit="scene", desc=f"{objects}-object scenes", leave=False)
    drawn = []
    for number in numbers:
        drawn.append(draw_scene((seed, number), size=size, styles=styles, count=objects))
        if len(drawn) == BATCH or number == count - 1:
            yield as_batch(drawn, preprocessing)
            drawn = []


def as_batch(drawn: list[Scene], preprocessing: Preprocessing = OPENAI) -> SceneBatch:
    """Scenes of equally many objects as one batch for a model of that preprocessing."""
    pixels = torch.from_numpy(np.stack([scene.image for scene in drawn])).permute(0, 3, 1, 2)
    masks = np.stack([[thing.mask for thing in scene.objects] for scene in drawn])
    return SceneBatch(
        normalise_pixels(pixels.float() / 255, preprocessing),
        torch.tensor([[thing.concept for thing in scene.objects] for scene in drawn]),
        torch.from_numpy(masks),
    )


@torch.no_grad()
def concept_features(model: nn.Module) -> Float[Tensor, "concept feature"]:
    """Unit features of `concept_phrases`."""
    tokens = tokenize(concept_phrases()).to(model.logit_scale.device)
    return F.normalize(model.encode_text(tokens).float(), dim=-1)


def concept_phrases() -> list[str]:
    """The plainest phrase of every concept."""
    return [concept.phrases[0] for concept in concepts()]


def absent_concepts(
    rng: np.random.Generator, shown: Int[Tensor, "image object"], count: int
) -> Int[Tensor, " image"]:
    """For each image one of `count` concepts that it does not show."""
    every = np.arange(count)
    return torch.tensor([rng.choice(np.setdiff1d(every, row)) for row in shown.numpy()])


def at_least_one(text: str) -> int:
    """How many scenes or pictures to measure on, as the argument of a command."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be a whole number, 1 or more; got {text!r}")
    return int(text)

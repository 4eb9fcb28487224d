"""What is asked of pictures: targets with their names, and by which method they are explained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from explainer import Explainer, Images
from saliency import maps_and_scores
from words import word_directions


@dataclass(frozen=True)
class Question:
    """The same of every picture; it can be sent to other processes.

    names: of the targets: prompts, words in prompts, pictures. directions: of their features.
    """

    names: tuple[str, ...]
    directions: Float[Tensor, "target feature"]
    method: str
    negative: bool = False

    def answer(
        self, explainer: Explainer, images: Images
    ) -> tuple[Float[Tensor, "image target row column"], Float[Tensor, "image target"]]:
        """Raw maps on the grid, and scores, 100 times the cosine (of a word: what it adds)."""
        encoder = explainer.encoder
        return maps_and_scores(encoder, images, self.directions, self.method, self.negative)


def ask(
    explainer: Explainer,
    prompts: Sequence[str] = (),
    like: Sequence[Path] = (),
    method: str | None = None,
    *,
    words: bool = False,
    negative: bool = False,
) -> Question:
    """The question whether pictures are similar to prompts, and to other pictures.

    words: ask for each word of a prompt besides, s(prompt) - s(prompt without it).

    An empty picture is explained once, so that what cannot be asked raises ValueError, TypeError or
    RuntimeError here, before there is any work.
    """
    names, directions = [], []
    for prompt in prompts if words else ():
        added = prompt.split() if len(prompt.split()) > 1 else []
        names += [prompt, *(f"{prompt}: {word}" for word in added)]
        asked = ["", *range(len(added))]
        directions.append(word_directions(explainer.encoder, None, prompt, asked))
    if prompts and not words:
        names += prompts
        directions.append(explainer.texts(prompts))
    for path in like:
        names.append(path.name)
        directions.append(explainer.pictures(explainer.read(path)))
    directions = torch.cat([one.float().cpu() for one in directions])
    question = Question(tuple(names), directions, explainer.method(method), negative)
    question.answer(explainer, explainer.encoder.example())
    return question

"""Which of two things is in the picture? Words against words: `python -m evaluation.text`.

A scene shows X, in a style that was never trained on, and a text names X and Y, in either order.
A method is right if it gives the words of X more relevance for the picture than those of Y (ties
count half; chance is one half):

things       "a horse and a castle", of all concepts; X's phrase against Y's, its words added up.
             Also by order, X named first and second: a word must not win by its place.
adjectives   "a happy face and a sad face": the one word that tells them apart.

Intervals are 95 % bootstrap intervals over pictures. Without options it writes
results/evaluation/text.csv.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from checkpoints import EMBEDDED, CheckpointError
from embedded.scenes import HELD_OUT_STYLE, PAIRS, Scene, concept_index, concepts, draw_scene
from evaluation.output import output_folder
from evaluation.scene_sets import BATCH, as_batch, at_least_one
from evaluation.tables import csv_text, summary
from explainer import Explainer, explainers
from files import whole_file
from text_saliency import WordRelevance, text_methods

SEEDS = {"things": 5_000_000, "adjectives": 5_100_000}
CHOSEN_ON = {"things": 5_200_000, "adjectives": 5_300_000}  # the scenes of the default's choice
FACES = ("happy", "laughing", "sad", "crying", "angry", "afraid", "surprised", "sleepy", "neutral")


@dataclass(frozen=True)
class Pair:
    """A scene, and a text that names what it shows and what it does not.

    shown, other: which words of the text, by their places, name the one and the other.
    first: whether what is shown is named first.
    """

    scene: Scene
    text: str
    shown: list[int]
    other: list[int]
    first: bool


def drawn_pairs(measure: str, count: int, side: int, seed: int) -> Iterator[Pair]:
    for number in tqdm(range(count), unit="scene", desc=measure, leave=False):
        rng = np.random.default_rng((seed, number, 0))
        names = FACES if measure == "adjectives" else tuple(concept_index())
        shown, other = (names[place] for place in rng.choice(len(names), 2, replace=False))
        scene = draw_scene((seed, number), size=side, styles=(HELD_OUT_STYLE,), names=(shown,))
        phrases = [concepts()[concept_index()[name]].phrases[0] for name in (shown, other)]
        first = bool(rng.random() < 0.5)
        template = PAIRS[0] if measure == "adjectives" else PAIRS[rng.integers(len(PAIRS))]
        text = template.format(*(phrases if first else phrases[::-1]))
        places = [places_of(phrase, text) for phrase in phrases]
        if measure == "adjectives":  # of "a happy face" the adjective
            places = [[adjective] for _, adjective, _ in places]
        yield Pair(scene, text, *places, first)


def places_of(phrase: str, text: str) -> list[int]:
    """Which words of a text are those of a phrase in it."""
    wanted, words = phrase.split(), text.split()
    starts = range(len(words) - len(wanted) + 1)
    start = next(start for start in starts if words[start : start + len(wanted)] == wanted)
    return list(range(start, start + len(wanted)))


def features(explainer: Explainer, pairs: Sequence[Pair]) -> Float[Tensor, "pair 1 feature"]:
    """Of the pictures: each is the one target of its text."""
    parts = (pairs[first : first + BATCH] for first in range(0, len(pairs), BATCH))
    images = (as_batch([pair.scene for pair in some], explainer.pixels).images for some in parts)
    return torch.cat([explainer.pictures(some) for some in images]).unsqueeze(1)


def wins(pairs: Sequence[Pair], words: Sequence[WordRelevance]) -> Float[np.ndarray, " pair"]:
    """1 where the shown has more relevance than the other, one half where it has as much."""
    shown, other = (
        [float(one.relevance[0, places].sum()) for one, places in zip(words, named, strict=True)]
        for named in ([pair.shown for pair in pairs], [pair.other for pair in pairs])
    )
    return 0.5 + 0.5 * np.sign(np.subtract(shown, other))


def outcomes(
    explainer: Explainer, methods: Sequence[str], count: int, seeds: Mapping[str, int]
) -> dict[tuple[str, str], Float[np.ndarray, " pair"]]:
    """Of each method and measure, `wins` of the pairs; of things, by their order too."""
    found = {}
    for measure, seed in seeds.items():
        pairs = list(drawn_pairs(measure, count, explainer.side, seed))
        targets = features(explainer, pairs)
        first = np.array([pair.first for pair in pairs])
        groups = {measure: np.ones(count, bool)}
        if measure == "things":
            groups |= {"things, shown first": first, "things, shown second": ~first}
        for method in tqdm(methods, desc=f"{explainer.name}, {measure}", leave=False):
            words = explainer.words([pair.text for pair in pairs], targets, method)
            right = wins(pairs, words)
            found |= {(method, name): right[some] for name, some in groups.items() if some.any()}
    return found


def rows(model: str, found: Mapping[tuple[str, str], Float[np.ndarray, " pair"]]) -> list[dict]:
    """Of each method and measure, how often it is right."""
    return [
        {"model": model, "method": method, "measure": measure}
        | summary(right)
        | {"pairs": len(right)}
        for (method, measure), right in found.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.text",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=EMBEDDED)
    parser.add_argument("--methods", nargs="+", choices=text_methods(), default=text_methods())
    parser.add_argument("--pairs", type=at_least_one, default=1000, help="of each measure")
    parser.add_argument("--choose", action="store_true", help="on the scenes of the choice")
    usual = vars(parser.parse_args([]))
    parser.add_argument(
        "--output", type=Path, help="a folder; default: see above, else evaluation-text"
    )
    args = parser.parse_args(arguments)
    args.output = output_folder(args, usual, "evaluation-text")
    seeds = CHOSEN_ON if args.choose else SEEDS
    found = [
        row
        for explainer in explainers(args.models)
        for row in rows(explainer.name, outcomes(explainer, args.methods, args.pairs, seeds))
    ]
    with whole_file(args.output / "text.csv") as unfinished:
        unfinished.write_text(csv_text(found), encoding="utf-8")
    print(csv_text(found), end="")


if __name__ == "__main__":
    try:
        main()
    except (CheckpointError, OSError, ValueError) as error:
        sys.exit(f"python -m evaluation.text: {error}")

"""Measure every saliency method: localisation, faithfulness, sanity; and what makes `last grad`.

    python -m evaluation                                            the embedded models, on scenes
    python -m evaluation --models ViT-B/32 --images FOLDER          your model, your masks
    python -m evaluation --scenes 200 --methods "last grad"         less

Goes on where it was stopped. Writes CSV tables, whose values are means with 95 % bootstrap
intervals over pictures, and figures.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from embedded.scenes import concepts
from evaluation.folders import MaskedFolder
from evaluation.plots import draw_all
from evaluation.scene_sets import SceneBatch, scene_batches
from evaluation.study import FEWER, Pictures, Study
from evaluation.tables import write_tables
from explainer import Explainer

ROOT = Path(__file__).resolve().parents[2]
SEEDS = {"localisation": 4_000_000, "faithfulness": 4_100_000, "sanity": 4_200_000}
MANY = 240  # pictures, where so many are enough
OBJECTS = {"localisation": (1, 2, 3, 4), "faithfulness": (2,), "sanity": (2,)}


def scenes(seed: int, size: int, count: int, objects: Sequence[int]) -> Pictures:
    """`count` scenes, equally many of each number of objects; fewer, likewise."""

    @cache  # drawn once for all methods
    def drawn(number: int, most: int) -> list[SceneBatch]:
        return list(scene_batches(most, number, size, seed=seed + number))

    def pictures(most: int | None) -> Iterator[SceneBatch]:
        each = -(-min(count, most or count) // len(objects))
        for number in objects:
            yield from drawn(number, each)

    return pictures


def first(folder: MaskedFolder, count: int, most: int | None) -> Iterator[SceneBatch]:
    """The first pictures of a folder."""
    return islice(folder, min(count, most or count))


def evaluate(name: str, args: argparse.Namespace) -> Study:
    """Measure what is not on file yet."""
    explainer = Explainer(name)
    size = explainer.visual.input_resolution
    counts = {"localisation": args.scenes, "faithfulness": args.faithfulness, "sanity": args.sanity}
    if args.images:
        folder = MaskedFolder(args.images, explainer.preprocess, size, args.prompt)
        prompts, settings = folder.prompts, f"{args.images.resolve()} {args.prompt}"
        pictures = {name: partial(first, folder, count) for name, count in counts.items()}
    else:
        prompts, settings = [concept.phrases[0] for concept in concepts()], f"{SEEDS} {OBJECTS}"
        pictures = {
            name: scenes(SEEDS[name], size, count, OBJECTS[name]) for name, count in counts.items()
        }
    study = Study(explainer, prompts, args.runs, f"{settings} {counts} {MANY} {FEWER}")
    chosen = [one for one in study.methods() if not args.methods or one in args.methods]
    everything, some, few = pictures.values()
    tasks = {f"localisation, {one}": (study.localisation, one, everything) for one in chosen}
    tasks |= {f"faithfulness, {one}": (study.faithfulness, one, some) for one in chosen}
    tasks["naming"] = (study.naming, everything)
    tasks["sanity"] = (study.sanity, few)
    tasks["presence"] = (study.presence, partial(everything, MANY))
    tasks["signs"] = (study.signs, partial(everything, MANY))
    if "last grad" in chosen:
        tasks["parts of last grad"] = (study.parts_of_last_grad, partial(everything, MANY))
        tasks |= {
            f"variant, {one}": (study.localisation, one, everything) for one in study.variants()
        }
    bar = tqdm(tasks.items(), desc=explainer.name, unit="task")
    for task, (measure, *arguments) in bar:
        bar.set_postfix_str(task)
        study.measured(task, lambda call=measure, given=arguments: call(*given))
    return study


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["ViT-emoji", "RN-emoji"])
    parser.add_argument("--methods", nargs="+", help="default: all, and all baselines")
    parser.add_argument("--images", type=Path, help="a folder of pictures with masks, not scenes")
    parser.add_argument("--prompt", default="a {}", help="of an object in a folder")
    parser.add_argument("--scenes", type=int, default=1000, help="for localisation")
    parser.add_argument("--faithfulness", type=int, default=60, help="pictures")
    parser.add_argument("--sanity", type=int, default=40, help="pictures")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "evaluation")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "evaluation")
    args = parser.parse_args(arguments)
    studies = [evaluate(name, args) for name in args.models]
    args.output.mkdir(parents=True, exist_ok=True)
    tables = write_tables(studies, args.output)
    draw_all(tables, args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()

"""Measure every saliency method: localisation, faithfulness, sanity; and what makes `last grad`.

    python -m evaluation                                            the embedded models, on scenes
    python -m evaluation --models ViT-B/32 --images FOLDER          your model, your masks
    python -m evaluation --models ViT-B/32 --images VOCdevkit/VOC2012 --format voc
    python -m evaluation --scenes 200 --methods "last grad"         less

Goes on where it was stopped. Writes CSV tables, whose values are means with 95 % bootstrap
intervals over pictures, and figures: without options into results/evaluation/, which the report is
made of; else into a folder of your own, ./evaluation-FOLDER or ./evaluation-scenes, or --output.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from checkpoints import EMBEDDED, CheckpointError
from embedded.scenes import concepts
from evaluation.datasets import FORMATS, DataSet
from evaluation.folders import MaskedFolder
from evaluation.output import ROOT, output_folder
from evaluation.plots import draw_all
from evaluation.scene_sets import SceneBatch, at_least_one, scene_batches
from evaluation.study import FEWER, Pictures, Study
from evaluation.tables import write_tables
from explainer import Explainer, explainers
from preprocessing import as_framed

SEEDS = {"localisation": 4_000_000, "faithfulness": 4_100_000, "sanity": 4_200_000}
MANY = 240  # pictures, where so many are enough
OBJECTS = {"localisation": (1, 2, 3, 4), "faithfulness": (2,), "sanity": (2,)}


def scenes(
    seed: int,
    explainer: Explainer,
    count: int,
    objects: Sequence[int],
) -> Pictures:
    """`count` scenes, equally many of each number of objects; fewer, likewise."""

    @cache  # drawn once for all methods
    def drawn(number: int, most: int) -> list[SceneBatch]:
        size, preprocessing = explainer.side, explainer.pixels
        return list(
            scene_batches(most, number, size, seed=seed + number, preprocessing=preprocessing)
        )

    def pictures(most: int | None) -> Iterator[SceneBatch]:
        each = -(-min(count, most or count) // len(objects))
        for number in objects:
            yield from drawn(number, each)

    return pictures


def first(folder: MaskedFolder | DataSet, count: int, most: int | None) -> Iterator[SceneBatch]:
    """The first pictures of a folder."""
    return islice(folder, min(count, most or count))


def study_of(explainer: Explainer, args: argparse.Namespace) -> tuple[Study, list[Pictures]]:
    """A model, and the pictures for localisation, for faithfulness and for sanity."""
    counts = {"localisation": args.scenes, "faithfulness": args.faithfulness, "sanity": args.sanity}
    if args.images:
        folder = folder_of(explainer, args, max(counts.values()))
        tell_what_is_left_out(folder, explainer.name)
        prompts, settings = folder.prompts, folder.digest()
        pictures = [partial(first, folder, count) for count in counts.values()]
    else:
        prompts, settings = [concept.phrases[0] for concept in concepts()], f"{SEEDS} {OBJECTS}"
        pictures = [
            scenes(SEEDS[name], explainer, count, OBJECTS[name]) for name, count in counts.items()
        ]
    settings = f"{settings} {counts} {MANY} {FEWER} {explainer.pixels}"
    return Study(explainer, prompts, args.runs, settings, args.methods), pictures


def folder_of(explainer: Explainer, args: argparse.Namespace, most: int) -> MaskedFolder | DataSet:
    """The user's pictures, `most` of them if they are of a data set."""
    sees = {"preprocess": explainer.preprocess, "size": explainer.side}
    sees |= {"preprocessing": as_framed(explainer.preprocess, explainer.side, explainer.pixels)}
    if args.format is None:
        return MaskedFolder(args.images, template=args.prompt or "a {}", **sees)
    read, split = FORMATS[args.format]
    names, photographs = read(args.images, args.split or split)
    return DataSet(names, photographs, most, template=args.prompt or "a photo of a {}", **sees)


def tell_what_is_left_out(folder: MaskedFolder | DataSet, model: str) -> None:
    """Say which masks, and which measure, are left out."""
    said = folder.left_out()
    if folder.shows_everything():
        said.append("presence: every picture shows every object, so none is absent")
    for one in said:
        print(f"{model} is not measured on {one}", file=sys.stderr)


def measure(study: Study, pictures: list[Pictures]) -> None:
    """Measure what is not on file yet."""
    everything, some, few = pictures
    tasks = {f"localisation, {one}": (study.localisation, one, everything) for one in study.chosen}
    tasks |= {f"faithfulness, {one}": (study.faithfulness, one, some) for one in study.chosen}
    tasks["naming"] = (study.naming, everything)
    if study.draws_anew():
        tasks["sanity"] = (study.sanity, few)
    tasks["presence"] = (study.presence, partial(everything, MANY))
    tasks["others"] = (study.others, partial(everything, MANY))
    tasks["signs"] = (study.signs, partial(everything, MANY))
    if study.takes_last_grad_apart():
        tasks["parts of last grad"] = (study.parts_of_last_grad, partial(everything, MANY))
        tasks |= {
            f"variant, {one}": (study.localisation, one, everything) for one in study.variants()
        }
    bar = tqdm(tasks.items(), desc=study.explainer.name, unit="task")
    for task, (call, *arguments) in bar:
        bar.set_postfix_str(task)
        study.measured(task, partial(call, *arguments))


def template(text: str) -> str:
    if "{}" not in text:
        raise argparse.ArgumentTypeError(f"must have {{}} where the object's name goes: {text!r}")
    return text


def main(arguments: list[str] | None = None) -> None:
    splits = ", ".join(f"{split} ({name})" for name, (_, split) in FORMATS.items())
    parser = argparse.ArgumentParser(
        prog="python -m evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=EMBEDDED)
    parser.add_argument("--methods", nargs="+", help="default: all, and all baselines")
    parser.add_argument("--images", type=Path, help="a folder of pictures with masks, not scenes")
    parser.add_argument("--format", choices=FORMATS, help="of a data set that the folder is of")
    parser.add_argument("--split", help=f"of it; default: {splits}")
    parser.add_argument(
        "--prompt", type=template, help='default: "a {}", of a data set "a photo of a {}"'
    )
    parser.add_argument("--scenes", type=at_least_one, default=1000, help="for localisation")
    parser.add_argument("--faithfulness", type=at_least_one, default=200, help="pictures")
    parser.add_argument("--sanity", type=at_least_one, default=40, help="pictures")
    default = vars(parser.parse_args([]))
    parser.add_argument("--output", type=Path, help="default: see above")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "evaluation")
    args = parser.parse_args(arguments)
    if (args.format and not args.images) or (args.split and not args.format):
        parser.error("--split is of a --format, and a --format is of --images FOLDER")
    own = f"evaluation-{args.images.resolve().name if args.images else 'scenes'}"
    args.output = output_folder(args, default, own)
    studies = [study_of(explainer, args) for explainer in explainers(args.models)]
    known = dict.fromkeys(name for study, _ in studies for name in study.methods())
    unknown = [name for name in args.methods or () if name not in known]
    if unknown:
        parser.error(f"unknown methods {', '.join(unknown)}; there are {', '.join(known)}")
    args.output.mkdir(parents=True, exist_ok=True)
    for study, pictures in studies:
        measure(study, pictures)
    tables = write_tables([study for study, _ in studies], args.output)
    draw_all(tables, args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    try:
        main()
    except (CheckpointError, OSError, ValueError) as error:
        sys.exit(f"python -m evaluation: {error}")

"""Where in pictures does their similarity to prompts come from?

python code/explain.py photo.jpg "a cat" "a dog"

One or several pictures, then prompts: a figure, "photo explained.png", in the folder where you are,
and the scores, 100 times the cosine of picture and prompt, here.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from clip_ import to_rgb
from explainer import explainers
from image_utils import has_ending_of_image, open_image
from methods import METHODS
from overlay_figure import Asked, checked_output, rows_of, save
from question import ask
from saliency import RESNET_METHODS

ROOT = Path(__file__).resolve().parent.parent
MODELS = {"ViT-emoji": METHODS, "RN-emoji": RESNET_METHODS}
MOST = 100  # prompts in a figure


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="explain.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("what", nargs="*", metavar="PICTURE … PROMPT", help="pictures, then prompts")
    asked = made.add_argument_group("what is asked")
    asked.add_argument("--prompts", type=Path, metavar="FILE", help="a text file, a prompt a line")
    asked.add_argument(
        "--like",
        type=Path,
        action="append",
        default=[],
        metavar="PICTURE",
        help="similarity to another picture, instead of a prompt or besides",
    )
    asked.add_argument(
        "--words", action="store_true", help="each word of the prompts besides, by what it adds"
    )
    asked.add_argument(
        "--negative", action="store_true", help="what speaks against similarity, instead of for it"
    )
    how = made.add_argument_group("how it is answered")
    how.add_argument(
        "--model",
        action="append",
        default=[],
        help="an official or embedded model, a file, open_clip:MODEL/TAG or hf:OWNER/NAME; several "
        "stand side by side; default: the embedded ones, which know drawings and no photographs",
    )
    how.add_argument(
        "--method",
        action="append",
        default=[],
        help=f"of a ViT: {', '.join(METHODS)}; of a ResNet: {', '.join(RESNET_METHODS)}; several "
        "stand side by side; default: the first of these",
    )
    how.add_argument(
        "--crop",
        action="store_true",
        help="what the model's own preprocessing leaves of a picture, which is mostly its middle "
        "square; default: all of it, on a grid fitted to its sides, where the model takes that",
    )
    out = made.add_argument_group("what is made of it")
    out.add_argument(
        "--out",
        type=Path,
        help="the figure, by its ending PNG, PDF, SVG, JPEG or WebP; "
        'default: "PICTURE explained.png", where you are',
    )
    out.add_argument("--cmap", help="a colour map of matplotlib's for the heat, such as viridis")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    reader = parser()
    args = reader.parse_intermixed_args(arguments)
    try:
        explain_pictures(args)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        reader.exit(2, f"{reader.prog}: {' '.join(str(error).split())}\n")


def explain_pictures(args: argparse.Namespace) -> None:
    pictures, prompts = told_apart(args)
    for path in [*pictures, *args.like]:
        to_rgb(open_image(path))
    out = checked_output(args.out or Path(f"{pictures[0].stem} explained.png"), pictures)
    if args.cmap not in (None, *matplotlib.colormaps):
        raise ValueError(f"{args.cmap!r} is no colour map of matplotlib's, such as viridis")
    asked = questions(args, prompts)
    rows, labels = rows_of(pictures, asked, args.cmap)
    save(rows, labels, out)
    print(f"wrote {out}")


def told_apart(args: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Pictures and prompts: of what is given, the former are files or have an ending of one."""
    is_picture = [has_ending_of_image(what) or os.path.exists(what) for what in args.what]
    pictures = [Path(what) for what, so in zip(args.what, is_picture, strict=True) if so]
    prompts = [what for what, so in zip(args.what, is_picture, strict=True) if not so]
    if not pictures:
        raise ValueError("give a picture, then prompts; --help tells more")
    if args.prompts:
        lines = args.prompts.read_text(encoding="utf-8-sig").splitlines()
        prompts += [line.strip() for line in lines if line.strip()]
    if not prompts and not args.like:
        raise ValueError('give at least one prompt after the pictures, such as "a cat"')
    if any(not prompt.strip() for prompt in prompts):
        raise ValueError("a prompt is empty")
    if len(prompts) > MOST:
        raise ValueError(f"{len(prompts)} prompts are too many for one figure, at most {MOST} fit")
    return pictures, prompts


def questions(args: argparse.Namespace, prompts: list[str]) -> list[Asked]:
    """What every model is asked, by every method; refused before there is any work."""
    methods = args.method or [None]
    found = explainers(args.model or models_with(methods))
    for method in methods:
        for explainer in found:
            explainer.method(method)
    options = {"words": args.words, "negative": args.negative}
    return [
        Asked(explainer, ask(explainer, prompts, args.like, method, **options), args.crop)
        for explainer in found
        for method in methods
    ]


def models_with(methods: Sequence[str | None]) -> list[str]:
    """The embedded models that have all the methods."""
    names = [name for name, table in MODELS.items() if set(methods) <= {None, *table}]
    if not names:
        wrong = ", ".join(map(repr, methods))
        raise ValueError(
            f"no embedded model has the method {wrong}: a ViT takes {', '.join(METHODS)}; "
            f"a ResNet {', '.join(RESNET_METHODS)}"
        )
    return names


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be of any bytes
    main()

"""Where in pictures does their similarity to prompts come from?

python code/explain.py photo.jpg "a cat" "a dog"              photo explained.png, where you are
python code/explain.py FOLDER --prompts FILE --out MAPS       maps of all in it, as Parquet
python code/explain.py show MAPS                              a page to look at them with
python code/explain.py export MAPS --png (--npz, --coco)      overlays, arrays, boxes and masks

One or several pictures, then prompts: a figure, and the scores, 100 times the cosine of picture and
prompt. Or folders, CSV lists (with a column path), tar archives and Parquet files (with a column of
pictures): one Parquet file for every 1,000 pictures. Stopped, the same command goes on; a picture
that cannot be read is a row with an error.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from clip_ import to_rgb
from dataset.sources import is_source
from explainer import Explainer, explainers
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
    made.add_argument(
        "what", nargs="*", metavar="PICTURE", help="pictures, or what holds them; then prompts"
    )
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
        'default: "PICTURE explained.png", where you are; or the folder of the maps',
    )
    out.add_argument("--cmap", help="a colour map of matplotlib's for the heat, such as viridis")
    many = made.add_argument_group("of folders, lists, archives and Parquet files")
    many.add_argument(
        "--workers",
        type=count,
        default=max(1, (os.cpu_count() or 1) - 1),
        help="processes that decode pictures; default: one less than there are cores",
    )
    many.add_argument("--batch", type=count, default=32, help="pictures explained at once")
    many.add_argument(
        "--shard", type=count, default=1000, help="pictures a file; default: %(default)s"
    )
    many.add_argument(
        "--float16",
        action="store_true",
        help="maps as float16, not as bytes: three digits, not two",
    )
    many.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="as tasks on a Ray cluster (pip install -r requirements-ray.txt): one for this run on "
        "this machine, or, with auto, the one that this machine has joined; --workers does not "
        "count there, since each task decodes its own pictures",
    )
    many.add_argument(
        "--strict", action="store_true", help="exit with 3 if there is a picture with an error"
    )
    return made


def count(text: str) -> int:
    """A number from 1 on, of an option."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"it must be a number from 1 on; got {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    make, do = COMMANDS.get(arguments[0] if arguments else "", (parser, explain))
    reader = make()
    args = reader.parse_intermixed_args(arguments[make is not parser :])
    try:
        status = do(args)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        reader.exit(2, f"{reader.prog}: {' '.join(str(error).split())}\n")
    except KeyboardInterrupt:
        reader.exit(130, "\nstopped\n")
    if status:
        reader.exit(status)


def show_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="explain.py show",
        description="Write MAPS/gallery.html, a page of its own to look at maps with: overlays, "
        "sorted and filtered by scores, and errors.",
    )
    made.add_argument("maps", type=Path, metavar="MAPS", help="a folder of maps")
    made.add_argument(
        "--most", type=count, default=10_000, help="pictures on the page; default: %(default)s"
    )
    return made


def show(args: argparse.Namespace) -> int:
    from dataset.gallery import write_gallery

    path, number = write_gallery(args.maps, args.most)
    print(f"wrote {path}, of {number:,} pictures")
    return 0


def export_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="explain.py export", description="Maps as other programs take them."
    )
    made.add_argument("maps", type=Path, metavar="MAPS", help="a folder of maps")
    what = made.add_mutually_exclusive_group(required=True)
    for name, told in (
        ("--png", "overlays, as large as the pictures: of each a file for each target"),
        ("--npz", "of each picture a file for NumPy: maps, scores, targets"),
        ("--coco", "boxes and masks of all, as COCO JSON"),
    ):
        what.add_argument(name, dest="form", action="store_const", const=name[2:], help=told)
    made.add_argument("--to", type=Path, help="a folder; default: MAPS/png, MAPS/npz or MAPS/coco")
    return made


def export(args: argparse.Namespace) -> int:
    from dataset.exporting import EXPORTS

    to = args.to or args.maps / args.form
    number = sum(1 for _ in EXPORTS[args.form](args.maps, to))
    print(f"wrote {number:,} file{'s' * (number != 1)} into {to}")
    return 0


COMMANDS = {"show": (show_parser, show), "export": (export_parser, export)}


def explain(args: argparse.Namespace) -> int:
    """Do what is asked; the exit status."""
    given, prompts = told_apart(args)
    if not any(map(is_source, given)):
        explain_pictures(args, given, prompts)
        return 0
    if not all(map(is_source, given)):
        raise ValueError("give pictures, or folders, lists, archives and Parquet files; not both")
    return explain_sources(args, given, prompts)


def explain_sources(args: argparse.Namespace, sources: list[Path], prompts: list[str]) -> int:
    from dataset.run import finish, planned, require_folder, run

    if args.out is None:
        raise ValueError("give a folder for the maps: --out MAPS")
    if args.cmap or len(args.model) > 1 or len(args.method) > 1:
        raise ValueError("maps of many are of one model and one method, and --cmap is for figures")
    require_folder(args.out)
    model = args.model[0] if args.model else models_with(args.method)[0]
    explainer = Explainer(model)
    (asked,) = questions(args, prompts, [explainer])
    options = {
        "like": args.like,
        "crop": args.crop,
        "float16": args.float16,
        "size": args.shard,
        "batch": args.batch,
    }
    names = [str(source) for source in sources]
    with planned(names, args.out, model, explainer, asked.question, **options) as plan:
        print(f"{asked.title}: {asked.sees}")
        if args.ray:
            from dataset.on_ray import run_on_ray

            run_on_ray(plan, args.ray)
        else:
            run(plan, explainer, args.workers)
        return 3 if finish(plan) and args.strict else 0


def explain_pictures(args: argparse.Namespace, pictures: list[Path], prompts: list[str]) -> None:
    if len(prompts) > MOST:
        raise ValueError(f"{len(prompts)} prompts are too many for one figure, at most {MOST} fit")
    for path in [*pictures, *args.like]:
        to_rgb(open_image(path))
    out = checked_output(args.out or Path(f"{pictures[0].stem} explained.png"), pictures)
    if args.cmap not in (None, *matplotlib.colormaps):
        raise ValueError(f"{args.cmap!r} is no colour map of matplotlib's, such as viridis")
    asked = questions(args, prompts, explainers(args.model or models_with(args.method)))
    rows, labels = rows_of(pictures, asked, args.cmap)
    save(rows, labels, out)
    print(f"wrote {out}")


def told_apart(args: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Pictures, or what holds them, and prompts: the former are there or have an ending of one."""
    is_picture = [
        has_ending_of_image(what) or is_source(what) or os.path.exists(what) for what in args.what
    ]
    pictures = [Path(what) for what, so in zip(args.what, is_picture, strict=True) if so]
    prompts = [what for what, so in zip(args.what, is_picture, strict=True) if not so]
    if not pictures:
        raise ValueError("give a picture or a folder, then prompts; --help tells more")
    if args.prompts:
        lines = args.prompts.read_text(encoding="utf-8-sig").splitlines()
        prompts += [line.strip() for line in lines if line.strip()]
    if not prompts and not args.like:
        raise ValueError('give at least one prompt after the pictures, such as "a cat"')
    if any(not prompt.strip() for prompt in prompts):
        raise ValueError("a prompt is empty")
    return pictures, prompts


def questions(args: argparse.Namespace, prompts: list[str], found: list[Explainer]) -> list[Asked]:
    """What every model is asked, by every method; refused before there is any work."""
    methods = args.method or [None]
    for method in methods:
        for explainer in found:
            explainer.method(method)
    options = {"words": args.words, "negative": args.negative}
    return [
        Asked(explainer, ask(explainer, prompts, args.like, method, **options), args.crop)
        for explainer in found
        for method in methods
    ]


def models_with(methods: Sequence[str]) -> list[str]:
    """The embedded models that have all the methods."""
    names = [name for name, table in MODELS.items() if set(methods) <= set(table)]
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

"""Where in an image does its similarity to a prompt come from? One figure.

python code/demo.py                                               two emoji scenes
python code/demo.py photo.jpg "a cat" "a dog" --models ViT-B/32   your own: photo explained.png
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from clip_ import to_rgb, tokenize
from explainer import Explainer
from figures import Panel, grid, without_glyph
from files import whole_file
from image_utils import as_picture, is_image, open_image, show_cam_on_image
from methods import METHODS
from saliency import RESNET_METHODS

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = {
    "horse&sheep.png": ["a horse", "a sheep"],
    "car&bicycle&tree.png": ["a car", "a tree"],
}
MODELS = {"ViT-emoji": METHODS, "RN-emoji": RESNET_METHODS}
KNOWN = f"a ViT takes {', '.join(METHODS)}; a ResNet {', '.join(RESNET_METHODS)}"
ENDINGS = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")
COLUMNS, MOST = 5, 100  # panels in a row, prompts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Explain an image's similarity to prompts")
    parser.add_argument("image", nargs="?", type=Path)
    parser.add_argument("prompts", nargs="*")
    parser.add_argument(
        "--models",
        nargs="+",
        help="any names or files that load() takes; default: the embedded models",
    )
    parser.add_argument("--method", help="default: last grad for a ViT, GradCAM for a ResNet")
    parser.add_argument(
        "--output",
        type=Path,
        help=f"{', '.join(ENDINGS)}; default: IMAGE explained.png, in the folder where you are",
    )
    args = parser.parse_intermixed_args(arguments)
    try:
        examples = {ROOT / "Images" / name: prompts for name, prompts in EXAMPLES.items()}
        if args.image:
            examples = {args.image: checked_prompts(args.prompts)}
        names = args.models or models_with(args.method)
        for path in examples:
            to_rgb(open_image(path))
        own = bool(args.image or args.models or args.method)
        output = checked_output(args.output, examples, own)
        rows = explained(examples, names, args.method)
        save([row[at : at + COLUMNS] for row in rows for at in range(0, len(row), COLUMNS)], output)
    except (OSError, ValueError, RuntimeError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"wrote {output}")


def checked_prompts(prompts: list[str]) -> list[str]:
    """The prompts; raises ValueError or RuntimeError if they are none that a model can read."""
    if not prompts:
        raise ValueError('give at least one prompt after the image, such as "a cat"')
    if len(prompts) > MOST:
        raise ValueError(f"{len(prompts)} prompts are too many for one figure, at most {MOST} fit")
    for prompt in prompts:
        if not prompt.strip():
            raise ValueError("a prompt is empty")
        if is_image(Path(prompt)):
            raise ValueError(f"one image at a time, then prompts: {prompt} is an image too")
    tokenize(prompts)
    return prompts


def models_with(method: str | None) -> list[str]:
    """The embedded models that have a method."""
    names = [name for name, table in MODELS.items() if method is None or method in table]
    if not names:
        raise ValueError(f"unknown method {method!r}: {KNOWN}")
    return names


def checked_output(path: Path | None, images: Sequence[Path], own: bool) -> Path:
    """Where the figure goes; raises ValueError if it cannot be written there.

    own: it is not the figure that the repository ships, and may not take that one's place.
    """
    results = ROOT / "results"
    if path is None:
        path = results / "demo" / "demo.png"
        if own:
            path = Path(f"{next(iter(images)).stem} explained.png")
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path} must end in one of {', '.join(ENDINGS)}")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with TemporaryFile(dir=there), suppress(FileNotFoundError):
            path.lstat()  # fails if the name is too long
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from error
    if path.is_dir():
        raise ValueError(f"{path} is a folder")
    if path.exists() and any(path.samefile(image) for image in images):
        raise ValueError(f"{path} is the image that is explained: give another --output")
    if own and path.resolve().is_relative_to(results):
        raise ValueError(f"{results} is for the repository's own figures: give another --output")
    return path


def explained(
    examples: dict[Path, list[str]], names: list[str], method: str | None
) -> list[list[Panel]]:
    """A row of panels for each image: the image, then the heat of its prompts by each model."""
    explainers = [Explainer(name) for name in names]
    for name, explainer in zip(names, explainers, strict=True):
        if method is not None and method not in explainer.methods:
            raise ValueError(f"{name} is a {explainer.kind} and has no method {method!r}: {KNOWN}")
    rows = [[] for _ in examples]
    for name, explainer in zip(names, explainers, strict=True):
        for row, (path, prompts) in zip(rows, examples.items(), strict=True):
            images, targets = explainer.read(path), explainer.texts(prompts)
            picture = as_picture(images[0], explainer.pixels)
            if not row:
                row.append(Panel(picture))
            print(f"{path.name}, {name}")
            scores = explainer.scores(images, targets)[0].tolist()
            heat = explainer.heat(images, targets, method)[0]
            for prompt, score, relevance in zip(prompts, scores, heat, strict=True):
                print(f"  {score:6.2f}  {prompt}")
                title = f"{name}: {prompt} ({score:.1f})"
                row.append(Panel(show_cam_on_image(picture, relevance), title))
    return rows


def save(rows: list[list[Panel]], path: Path) -> None:
    """Draw rows of panels into a file, and say which letters of the titles cannot be drawn."""
    lacking = without_glyph("".join(panel.title for row in rows for panel in row))
    if lacking:
        print(
            f"boxes stand for what matplotlib's fonts (font.family) lack: {' '.join(lacking)}",
            file=sys.stderr,
        )
    with warnings.catch_warnings(), whole_file(path) as unfinished:
        warnings.filterwarnings("ignore", message="Glyph")  # one a letter
        grid(rows, side=2.4).savefig(unfinished, dpi=110)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be of any bytes
    main()

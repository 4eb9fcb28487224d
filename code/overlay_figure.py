"""Pictures and the heat of their targets over them, as one figure."""

import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import PIL.Image

from clip_ import to_rgb
from explainer import Explainer
from figures import Panel, grid, without_glyph
from files import whole_file
from image_utils import open_image
from placing import overlaid, placed
from preprocessing import WholeFrame, Window, window_seen
from question import Question

ENDINGS = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")
COLUMNS = 5  # panels in a row
LONGEST = 1200  # pixels of a picture's side: a panel shows no more


@dataclass(frozen=True)
class Asked:
    """A model, and what it is asked."""

    explainer: Explainer
    question: Question
    crop: bool = False

    @property
    def title(self) -> str:
        return f"{self.explainer.name}, {self.question.method}"

    @property
    def sees(self) -> str:
        if isinstance(self.explainer.frame(self.crop), WholeFrame):
            return "the whole picture"
        return "what its own preprocessing leaves of the picture"


def rows_of(
    pictures: Sequence[Path], asked: Sequence[Asked], cmap: str | None = None
) -> tuple[list[list[Panel]], list[str]]:
    """Rows of panels, with a label for each: for every picture and question, the picture and the
    heat of the targets over it. Scores are printed.
    """
    rows, labels = [], []
    for path in pictures:
        image = to_rgb(open_image(path))
        for one in asked:
            print(f"{path.name}, {one.title}: {one.sees}")
            panels = explained(image, one, cmap)
            rows += [panels[at : at + COLUMNS] for at in range(0, len(panels), COLUMNS)]
            labels += [one.title] * (len(rows) - len(labels))
    return rows, labels


def explained(image: PIL.Image.Image, asked: Asked, cmap: str | None) -> list[Panel]:
    """The picture, then the heat of each target, where the model saw it."""
    explainer, question = asked.explainer, asked.question
    frame = explainer.frame(asked.crop)
    maps, scores = question.answer(explainer, explainer.images([np.asarray(frame(image))]))
    window = window_seen(frame, image.size)
    shown = image.copy()
    shown.thumbnail((LONGEST, LONGEST))
    scale = shown.width / image.width, shown.height / image.height
    place = placed(maps[0], Window(*(np.array(window) * (*scale, *scale))), shown.size)
    picture = np.float32(shown) / 255
    panels = [Panel(picture)]
    for name, score, heat in zip(question.names, scores[0].tolist(), place.heat, strict=True):
        print(f"  {score:6.2f}  {name}")
        overlay = overlaid(picture, heat, place, question.negative, cmap)
        panels.append(Panel(overlay, f"{name} ({score:.1f})"))
    return panels


def checked_output(path: Path, pictures: Sequence[Path]) -> Path:
    """The path; raises ValueError if no figure can be written there."""
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
    if path.exists() and any(path.samefile(picture) for picture in pictures):
        raise ValueError(f"{path} is the picture that is explained: give another --out")
    return path


def save(rows: list[list[Panel]], labels: Sequence[str], path: Path) -> None:
    """Draw rows of panels into a file, and say which letters of the titles cannot be drawn."""
    lacking = without_glyph("".join(panel.title for row in rows for panel in row))
    if lacking:
        print(
            f"boxes stand for what matplotlib's fonts (font.family) lack: {' '.join(lacking)}",
            file=sys.stderr,
        )
    with warnings.catch_warnings(), whole_file(path) as unfinished:
        warnings.filterwarnings("ignore", message="Glyph")  # one a letter
        grid(rows, labels, side=2.4).savefig(unfinished, dpi=110)

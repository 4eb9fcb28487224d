"""What all notebooks share: which models, where results go, what is shown.

Importing it puts `code/` on the path. Two environment variables set what all notebooks do:

CLIP_MODELS    "embedded" (default), "openai", or your own: "VIT,RESNET", or one of them; names or
               files that `load` takes, found from where the command was given or the repository.
CLIP_RESULTS   the folder to write into, instead of `results/`, or, for other models than the
               embedded ones, of `results-<models>/`: what the repository ships stays.
"""

import hashlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

CODE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CODE))

from IPython.display import Image, Markdown  # noqa: E402
from matplotlib.backends.backend_pdf import PdfPages  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from checkpoints import EMBEDDED, available_models  # noqa: E402
from checkpoints.hubs import HUB, OPEN_CLIP  # noqa: E402
from evaluation.tables import cell, csv_text, summary  # noqa: E402, F401
from explainer import Explainer, explainers, shown_name  # noqa: E402
from files import whole_file  # noqa: E402

ROOT = CODE.parent
IMAGES = ROOT / "Images"
LONGEST = 255  # bytes of a file's name, on most systems
MODELS = {"embedded": "ViT-emoji,RN-emoji", "openai": "ViT-B/32,RN101"}


def chosen_models() -> str:
    """What CLIP_MODELS says."""
    return os.environ.get("CLIP_MODELS", "").strip() or "embedded"


def model_names() -> list[str]:
    """The names and files of the one or two models that it asks for.

    Raises ValueError, which says what it may ask for.
    """
    chosen = chosen_models()
    names = [located(name.strip()) for name in MODELS.get(chosen, chosen).split(",")]
    if None in names or len(names) > 2:
        raise ValueError(
            f"CLIP_MODELS must be {', '.join(MODELS)}, or a ViT, a ResNet, or both with a comma "
            f"between, of {', '.join(available_models())}, files that are there, or names of the "
            f"hubs ({OPEN_CLIP}..., {HUB}...); got {chosen!r}"
        )
    return names


def located(name: str) -> str | None:
    """A model's name as it is, of a file the whole path; None if it is neither."""
    if name in available_models() or name.startswith((OPEN_CLIP, HUB)):
        return name
    paths = [folder / Path(name).expanduser() for folder in (Path.cwd(), ROOT)] if name else []
    return next((str(path) for path in paths if path.exists()), None)


def load_models() -> list[Explainer]:
    """The ViT and the ResNet that CLIP_MODELS asks for, or the one of them that it does."""
    found = explainers(model_names())
    if [one.kind for one in found] not in (["ViT", "ResNet"], ["ViT"], ["ResNet"]):
        raise ValueError(f"CLIP_MODELS must name a ViT, then a ResNet; got {chosen_models()!r}")
    return found


def load_vit() -> Explainer:
    """The ViT that CLIP_MODELS asks for."""
    first = Explainer(model_names()[0])
    if first.kind != "ViT":
        raise ValueError(f"this notebook is about a ViT; CLIP_MODELS is {chosen_models()!r}")
    return first


def choose(embedded, photographs):
    """A setting for the embedded models, which know emoji, or for models that know photographs."""
    return embedded if set(model_names()) <= set(EMBEDDED) else photographs


def results_folder() -> Path:
    """What all notebooks write into."""
    if given := os.environ.get("CLIP_RESULTS", "").strip():
        return Path(given).expanduser().absolute()
    names = model_names()
    if names == MODELS["embedded"].split(","):
        return ROOT / "results"
    return ROOT / file_name(f"results-{'+'.join(map(shown_name, names))}")


class Experiment:
    """The results of one notebook: results/<name>/, a PNG a figure, a CSV a table, one PDF of all.

    Every file is written whole or not at all, and the same content gives the same bytes.
    """

    def __init__(self, name: str):
        self.name = name
        self.folder = results_folder() / name
        self.figures: list[Figure] = []
        self.written: set[str] = set()

    def save(self, figure: Figure, title: str) -> Image:
        """Write a figure as PNG, remember it for the PDF, and show it as a smaller JPEG."""
        self._write(file_name(title, ".png"), drawn(figure, "png"))
        self.figures.append(figure)
        return Image(data=drawn(figure, "jpeg"))

    def table(self, rows: Sequence[dict], title: str, show: bool = True) -> Markdown | None:
        """Write rows as CSV, four decimals, and show them as a table."""
        names = list(rows[0])
        lines = [[cell(row[name]) for name in names] for row in rows]
        self._write(file_name(title, ".csv"), csv_text(rows).encode())
        if not show:
            return None
        parts = [names, ["---"] * len(names), *lines]
        return Markdown("\n".join("| " + " | ".join(part) + " |" for part in parts))

    def close(self) -> Markdown:
        """Write all figures into one PDF, and list what was written."""
        buffer = io.BytesIO()
        with PdfPages(buffer, metadata={"CreationDate": None}) as pages:
            for figure in self.figures:
                pages.savefig(figure)
        self._write(f"{self.name}.pdf", buffer.getvalue())
        files = ", ".join(f"`{name}`" for name in sorted(self.written))
        inside = self.folder.is_relative_to(ROOT)
        shown = self.folder.relative_to(ROOT) if inside else Path("results", self.name)
        return Markdown(f"In `{shown.as_posix()}/`: {files}")

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        with whole_file(path) as unfinished:
            unfinished.write_bytes(content)
        self.written.add(path.name)


def file_name(title: str, suffix: str = "") -> str:
    """A name that any system takes. What is too long for one is cut, and told by a digest."""
    name = re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", title)
    if len(f"{name}{suffix}".encode()) > LONGEST:
        digest = "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
        room = LONGEST - len(f"{digest}{suffix}".encode())
        name = name.encode()[:room].decode(errors="ignore") + digest
    return name + suffix


def drawn(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=110)
    return buffer.getvalue()


def reading(text: str) -> Markdown:
    """A paragraph of what was found, its numbers filled in by the cell."""
    return Markdown(text)

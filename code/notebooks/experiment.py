"""What all notebooks share: which models, where results go, what is shown.

Importing it puts `code/` on the path. Two environment variables set what all notebooks do:

CLIP_MODELS    "embedded" (default), "openai", or your own two, "VIT,RESNET": names or files that
               `load` takes.
CLIP_RESULTS   the folder to write into, instead of `results/`.
"""

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

from evaluation.tables import cell, csv_text, summary  # noqa: E402, F401
from explainer import Explainer  # noqa: E402

IMAGES = CODE.parent / "Images"
MODELS = {"embedded": "ViT-emoji,RN-emoji", "openai": "ViT-B/32,RN101"}


def chosen_models() -> str:
    """What CLIP_MODELS says."""
    chosen = os.environ.get("CLIP_MODELS", "embedded")
    if chosen not in MODELS and chosen.count(",") != 1:
        raise ValueError(
            f"CLIP_MODELS must be {', '.join(MODELS)}, or two names or files with a comma between, "
            f"a ViT's and a ResNet's; got {chosen!r}"
        )
    return chosen


def load_models() -> tuple[Explainer, Explainer]:
    """The ViT and the ResNet that CLIP_MODELS asks for."""
    chosen = chosen_models()
    found = tuple(Explainer(name.strip()) for name in MODELS.get(chosen, chosen).split(","))
    if [one.kind for one in found] != ["ViT", "ResNet"]:
        raise ValueError(f"CLIP_MODELS must name a ViT, then a ResNet; got {chosen!r}")
    return found


def choose(embedded, photographs):
    """A setting for the embedded models, which know emoji, or for models that know photographs."""
    return embedded if chosen_models() == "embedded" else photographs


class Experiment:
    """The results of one notebook: results/<name>/, a PNG a figure, a CSV a table, one PDF of all.

    Every file is written whole or not at all, and the same content gives the same bytes.
    """

    def __init__(self, name: str):
        self.name = name
        self.folder = Path(os.environ.get("CLIP_RESULTS", CODE.parent / "results")) / name
        self.figures: list[Figure] = []
        self.written: set[str] = set()

    def save(self, figure: Figure, title: str) -> Image:
        """Write a figure as PNG, remember it for the PDF, and show it as a smaller JPEG."""
        self._write(f"{title}.png", drawn(figure, "png"))
        self.figures.append(figure)
        return Image(data=drawn(figure, "jpeg"))

    def table(self, rows: Sequence[dict], title: str, show: bool = True) -> Markdown | None:
        """Write rows as CSV, four decimals, and show them as a table."""
        names = list(rows[0])
        lines = [[cell(row[name]) for name in names] for row in rows]
        self._write(f"{title}.csv", csv_text(rows).encode())
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
        return Markdown(f"In `results/{self.name}/`: {files}")

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / re.sub(r'[/\\:*?"<>|]', "_", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.write_bytes(content)
        unfinished.replace(path)
        self.written.add(path.name)


def drawn(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=110)
    return buffer.getvalue()


def reading(text: str) -> Markdown:
    """A paragraph of what was found, its numbers filled in by the cell."""
    return Markdown(text)

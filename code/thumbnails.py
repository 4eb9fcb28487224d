"""A small picture of every method on one image: results/methods/MODEL_METHOD.png, and all.png."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from explainer import Explainer
from figures import Panel, grid
from files import whole_file
from image_utils import as_picture, show_cam_on_image, to_bytes

ROOT = Path(__file__).resolve().parent.parent
IMAGE, PROMPT = ROOT / "Images" / "horse&dog.png", "a horse"
SIDE = 112
COLUMNS = 9


def save(picture: np.ndarray, path: Path) -> None:
    small = Image.fromarray(to_bytes(picture)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    with whole_file(path) as unfinished:
        small.save(unfinished)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "methods")
    folder = parser.parse_args().output
    rows = []
    for name in ("ViT-emoji", "RN-emoji"):
        explainer = Explainer(name)
        images, targets = explainer.read(IMAGE), explainer.texts([PROMPT])
        picture = as_picture(images[0])
        panels = [Panel(picture, name)]
        for method in explainer.methods:
            heat = explainer.heat(images, targets, method)[0, 0]
            path = folder / f"{name}_{method.replace(' ', '-')}.png"
            overlay = show_cam_on_image(picture, heat)
            save(overlay, path)
            print(f"wrote {path}")
            panels.append(Panel(overlay, method))
        rows += [panels[at : at + COLUMNS] for at in range(0, len(panels), COLUMNS)]
    save(picture, folder / "image.png")
    with whole_file(folder / "all.png") as unfinished:
        grid(rows, side=1.3).savefig(unfinished, dpi=110)


if __name__ == "__main__":
    main()

"""A small picture of every method on one image: results/methods/MODEL_METHOD.png."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from demo import ROOT
from explainer import Explainer
from files import whole_file
from image_utils import as_picture, show_cam_on_image, to_bytes

IMAGE, PROMPT = ROOT / "Images" / "horse&dog.png", "a horse"
SIDE = 112


def save(picture: np.ndarray, path: Path) -> None:
    small = Image.fromarray(to_bytes(picture)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    with whole_file(path) as unfinished:
        small.save(unfinished)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "methods")
    folder = parser.parse_args().output
    for name in ("ViT-emoji", "RN-emoji"):
        explainer = Explainer(name)
        images, targets = explainer.read(IMAGE), explainer.texts([PROMPT])
        picture = as_picture(images[0])
        for method in explainer.methods:
            heat = explainer.heat(images, targets, method)[0, 0]
            path = folder / f"{name}_{method.replace(' ', '-')}.png"
            save(show_cam_on_image(picture, heat), path)
            print(f"wrote {path}")
    save(picture, folder / "image.png")


if __name__ == "__main__":
    main()

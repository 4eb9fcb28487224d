"""Where in an image does its similarity to a prompt come from? One figure.

python code/demo.py                                            two emoji scenes
python code/demo.py photo.jpg "a cat" "a dog" --model ViT-B/32   an image and prompts of your own
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from clip_ import load, tokenize
from image_utils import as_picture, show_cam_on_image
from saliency import normalise_maps, relevance_maps, resize_maps
from vit_methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = {
    "horse&sheep.png": ["a horse", "a sheep", "grass"],
    "car&bicycle&tree.png": ["a car", "a bicycle", "a tree"],
}


def explain(model, preprocess, path: Path, prompts: list[str], method: str):
    """The image, the cosine of each prompt with it (times 100), and a map for each prompt."""
    with Image.open(path) as file:
        image = preprocess(file).unsqueeze(0).to(model.visual.conv1.weight.device)
    with torch.no_grad():
        targets = model.encode_text(tokenize(prompts).to(image.device))
        scores = 100 * F.cosine_similarity(model.encode_image(image), targets)
    maps = relevance_maps(model, image, targets, method)
    maps = normalise_maps(resize_maps(maps, image.shape[-2:]))[0]
    return as_picture(image[0]), scores.tolist(), maps.cpu().numpy()


def draw(rows: list[tuple[np.ndarray, list[str], list[float], np.ndarray]], path: Path) -> None:
    """One row for an image: itself, then its map for each prompt laid over it."""
    columns = 1 + max(len(prompts) for _, prompts, _, _ in rows)
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(2.6 * columns, 2.9 * len(rows)), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for row, (picture, prompts, scores, maps) in zip(axes, rows, strict=True):
        row[0].imshow(picture)
        for axis, prompt, score, relevance in zip(row[1:], prompts, scores, maps, strict=False):
            axis.imshow(show_cam_on_image(picture, relevance))
            axis.set_title(f"{prompt}  ({score:.1f})", fontsize=12)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Explain an image's similarity to prompts")
    parser.add_argument("image", nargs="?", type=Path)
    parser.add_argument("prompts", nargs="*")
    parser.add_argument("--model", default="ViT-emoji", help="any name or file that load() takes")
    parser.add_argument("--method", default="last grad", choices=METHODS)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "demo" / "demo.png")
    args = parser.parse_args()
    if args.image and not args.prompts:
        parser.error('give at least one prompt after the image, such as "a cat"')
    examples = {ROOT / "Images" / name: prompts for name, prompts in EXAMPLES.items()}
    if args.image:
        examples = {args.image: args.prompts}
    model, preprocess = load(args.model)
    rows = []
    for path, prompts in examples.items():
        picture, scores, maps = explain(model, preprocess, path, prompts, args.method)
        rows.append((picture, prompts, scores, maps))
        print(path.name)
        for prompt, score in zip(prompts, scores, strict=True):
            print(f"  {score:6.2f}  {prompt}")
    draw(rows, args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()

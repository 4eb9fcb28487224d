"""Where in an image does its similarity to a prompt come from? One figure.

python code/demo.py                                            two emoji scenes
python code/demo.py photo.jpg "a cat" "a dog" --models ViT-B/32   your own
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

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = {
    "horse&sheep.png": ["a horse", "a sheep"],
    "car&bicycle&tree.png": ["a car", "a tree"],
}


def explain(model, preprocess, path: Path, prompts: list[str], method: str | None):
    """The image, the cosine of each prompt with it (times 100), and a map for each prompt."""
    with Image.open(path) as file:
        image = preprocess(file).unsqueeze(0).to(model.visual.conv1.weight.device)
    with torch.no_grad():
        targets = model.encode_text(tokenize(prompts).to(image.device))
        scores = 100 * F.cosine_similarity(model.encode_image(image), targets)
    maps = relevance_maps(model, image, targets, method)
    maps = normalise_maps(resize_maps(maps, image.shape[-2:]))[0]
    return as_picture(image[0]), scores.tolist(), maps.cpu().numpy()


def draw(rows: list[list[tuple[str, np.ndarray]]], path: Path) -> None:
    """A grid of titled pictures."""
    columns = max(map(len, rows))
    size = 2.6 * columns, 2.9 * len(rows)
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for line, row in zip(axes, rows, strict=True):
        for axis, (title, picture) in zip(line, row, strict=False):
            axis.imshow(picture)
            axis.set_title(title, fontsize=12)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Explain an image's similarity to prompts")
    parser.add_argument("image", nargs="?", type=Path)
    parser.add_argument("prompts", nargs="*")
    parser.add_argument(
        "--models",
        nargs="+",
        default=["ViT-emoji", "RN-emoji"],
        help="any names or files that load() takes",
    )
    parser.add_argument("--method", help="default: last grad for a ViT, GradCAM for a ResNet")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "demo" / "demo.png")
    args = parser.parse_args()
    if args.image and not args.prompts:
        parser.error('give at least one prompt after the image, such as "a cat"')
    examples = {ROOT / "Images" / name: prompts for name, prompts in EXAMPLES.items()}
    if args.image:
        examples = {args.image: args.prompts}
    rows = [[] for _ in examples]
    for name in args.models:
        model, preprocess = load(name)
        for row, (path, prompts) in zip(rows, examples.items(), strict=True):
            picture, scores, maps = explain(model, preprocess, path, prompts, args.method)
            if not row:
                row.append(("", picture))
            print(f"{path.name}, {name}")
            for prompt, score, relevance in zip(prompts, scores, maps, strict=True):
                print(f"  {score:6.2f}  {prompt}")
                title = f"{name}: {prompt} ({score:.1f})"
                row.append((title, show_cam_on_image(picture, relevance)))
    draw(rows, args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()

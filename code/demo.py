"""Where in an image does its similarity to a prompt come from? One figure.

python code/demo.py                                            two emoji scenes
python code/demo.py photo.jpg "a cat" "a dog" --models ViT-B/32   your own
"""

import argparse
from pathlib import Path

from explainer import Explainer
from figures import Panel, grid
from image_utils import as_picture, show_cam_on_image

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = {
    "horse&sheep.png": ["a horse", "a sheep"],
    "car&bicycle&tree.png": ["a car", "a tree"],
}


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
        explainer = Explainer(name)
        for row, (path, prompts) in zip(rows, examples.items(), strict=True):
            images, targets = explainer.read(path), explainer.texts(prompts)
            picture = as_picture(images[0])
            if not row:
                row.append(Panel(picture))
            print(f"{path.name}, {name}")
            scores = explainer.scores(images, targets)[0].tolist()
            heat = explainer.heat(images, targets, args.method)[0]
            for prompt, score, relevance in zip(prompts, scores, heat, strict=True):
                print(f"  {score:6.2f}  {prompt}")
                title = f"{name}: {prompt} ({score:.1f})"
                row.append(Panel(show_cam_on_image(picture, relevance), title))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    grid(rows, side=2.4).savefig(args.output, dpi=110)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()

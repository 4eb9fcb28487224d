"""Draw the emoji scenes of `Images/`, and the mask of every object in them.

    python -m embedded.make_images

writes `<scene>.png` and `masks/<scene>/<concept>.png`. The table below says all there is to say:
the same row gives the same picture. And an overview of twelve scenes, as training sees them, to
`results/embedded/scenes.png`.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from embedded.scenes import HELD_OUT_STYLE, TRAINING_STYLES, Scene, draw_scene
from files import whole_file

ROOT = Path(__file__).parents[2]
SHARE_ALIKE = "openmoji"  # would put every picture it is in under its own licence


@dataclass(frozen=True)
class Picture:
    name: str
    seed: int  # chosen by eye: large objects apart from each other, in colours that tell
    concepts: tuple[str, ...]
    background: str
    scale: tuple[float, float]  # range of an object's longer side, as a fraction of the image
    style: str = HELD_OUT_STYLE  # the embedded models have never seen it

    def draw(self) -> Scene:
        return draw_scene(
            self.seed,
            names=self.concepts,
            styles=(self.style,),
            background=self.background,
            scale=self.scale,
        )


PICTURES = (
    Picture("horse&sheep", 136, ("horse", "sheep"), "grass", (0.40, 0.52)),
    Picture("horse&dog", 11, ("horse", "dog"), "snow", (0.40, 0.52)),
    Picture("cow&sheep", 303, ("cow", "sheep"), "grass", (0.40, 0.52)),
    Picture("elephant&zebra", 38, ("elephant", "zebra"), "sand", (0.42, 0.54)),
    Picture("cat&dog", 102, ("cat", "dog"), "snow", (0.42, 0.54), "fluent-emoji"),
    Picture("ship&dolphin", 20, ("ship", "dolphin"), "sea", (0.42, 0.54)),
    Picture("car&bicycle&tree", 371, ("car", "bicycle", "tree"), "sand", (0.38, 0.46)),
    Picture("astronaut&rocket&flag", 358, ("astronaut", "rocket", "flag"), "night", (0.38, 0.46)),
    Picture("faces", 198, ("happy", "sad", "angry", "surprised"), "blue", (0.39, 0.42)),
    # One animal in other styles: targets for "what in this image looks like that image?"
    Picture("horse_comic", 1, ("horse",), "white", (0.70, 0.85), "noto"),
    Picture("horse_3d", 1, ("horse",), "white", (0.70, 0.85), "fluent-emoji"),
    Picture("horse_sketch", 1, ("horse",), "white", (0.70, 0.85), "fluent-emoji-high-contrast"),
    Picture("sheep_comic", 39, ("sheep",), "white", (0.70, 0.85), "noto"),
    Picture("elephant_comic", 1, ("elephant",), "white", (0.70, 0.85), "noto"),
)


def files(picture: Picture) -> Iterator[tuple[str, UInt8[np.ndarray, "row column *channel"]]]:
    """(path below the folder, pixels): the scene in RGB, then its masks, 255 where seen."""
    scene = picture.draw()
    yield f"{picture.name}.png", scene.image
    for concept, thing in zip(picture.concepts, scene.objects, strict=True):
        yield f"masks/{picture.name}/{concept}.png", thing.mask.astype(np.uint8) * 255


def draw_overview(path: Path) -> None:
    """Twelve random scenes with their captions."""
    styles = tuple(style for style in TRAINING_STYLES if style != SHARE_ALIKE)
    figure, axes = plt.subplots(2, 6, figsize=(15, 6.2), layout="constrained")
    for seed, axis in enumerate(axes.flat):
        scene = draw_scene(seed, styles=styles)
        axis.imshow(scene.image)
        axis.set_title("\n".join(wrap(scene.caption, 30)), fontsize=10)
        axis.axis("off")
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=80)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the emoji scenes and their masks.")
    parser.add_argument("--folder", type=Path, default=ROOT, help="that holds Images/ and results/")
    root = parser.parse_args(arguments).folder
    folder = root / "Images"
    for picture in PICTURES:
        for path, pixels in files(picture):
            with whole_file(folder / path) as unfinished:
                Image.fromarray(pixels).save(unfinished)
    draw_overview(root / "results" / "embedded" / "scenes.png")


if __name__ == "__main__":
    main()

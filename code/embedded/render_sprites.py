"""Draw the sprites again: `npm install` in this folder, then `python render_sprites.py`.

render_sprites.mjs renders every glyph of concepts.json in every style; here each is trimmed to
what is drawn, scaled to fill its cell and packed into one atlas per style. The results are
committed, so nobody needs this to draw scenes.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
CELL = 128
COLUMNS = 16

# Drawings left out, by style: square pictures with a background of their own, whose mask would be
# the square (tent, ships, rainbow), and what is hard to know for its concept (a folded umbrella,
# white flags that are blank rectangles).
LEFT_OUT = {
    "emojione": {"26FA"},
    "fluent-emoji-flat": {"1F3F3"},
    "fluent-emoji-high-contrast": {"1F3F3"},
    "fxemoji": {"2602", "26FA", "26F5", "1F6A2", "1F308"},
}


def check(concepts: list[dict]) -> None:
    """A name, word, phrase or glyph means one concept only."""
    for field in ("name", "words", "phrases", "glyphs"):
        owners = {}
        for concept in concepts:
            values = concept[field]
            for value in [values] if isinstance(values, str) else values:
                owner = owners.setdefault(value, concept["name"])
                assert owner == concept["name"], f"{value!r}: {owner} and {concept['name']}"


def trimmed(path: Path) -> Image.Image:
    """The drawn part of an image, its longer side CELL.

    Resized with premultiplied alpha (mode RGBa), so that edges take no colour from transparency.
    """
    image = Image.open(path).convert("RGBA")
    alpha = np.asarray(image)[..., 3] > 8
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    image = image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    scale = CELL / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    image = image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    # 64 levels per channel cannot be told from 256 here, and the files are a third smaller.
    levels = np.round(np.asarray(image) * (63 / 255))
    return Image.fromarray(np.round(levels * (255 / 63)).astype(np.uint8))


def pack(sprites: list[Image.Image]) -> Image.Image:
    rows = -(-len(sprites) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for i, sprite in enumerate(sprites):
        row, column = divmod(i, COLUMNS)
        centring = [(CELL - side) // 2 for side in sprite.size]
        atlas.paste(sprite, (column * CELL + centring[0], row * CELL + centring[1]))
    return atlas


def main() -> None:
    concepts = json.loads((HERE / "concepts.json").read_text())
    check(concepts)
    glyphs = [glyph for concept in concepts for glyph in concept["glyphs"]]
    styles = {}
    with tempfile.TemporaryDirectory() as rendered:
        subprocess.run(["node", HERE / "render_sprites.mjs", rendered], check=True)
        for folder in sorted(Path(rendered).iterdir()):
            style, sprites = folder.name, {}
            for glyph in glyphs:
                path = folder / f"{glyph}.png"
                if path.exists() and glyph not in LEFT_OUT.get(style, ()):
                    sprites[glyph] = trimmed(path)
            pack(list(sprites.values())).save(HERE / f"sprites/{style}.png", optimize=True)
            styles[style] = {"glyphs": list(sprites)}
    index = {"cell": CELL, "columns": COLUMNS, "styles": styles}
    (HERE / "sprites/index.json").write_text(json.dumps(index) + "\n")


if __name__ == "__main__":
    main()

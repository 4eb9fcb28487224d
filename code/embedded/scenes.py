"""Emoji scenes: a small world with a caption and an exact mask for every object.

One to four concepts, each as a sprite of some style, on a background. Everything follows from a
seed. Coordinates are fractions of the image, so that a scene can be drawn at any size.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from embedded.variations import vary

HERE = Path(__file__).parent
HELD_OUT_STYLE = "twemoji"  # never trained on
STYLES = (
    "noto",
    "noto-v1",
    "fxemoji",
    "fluent-emoji",
    "fluent-emoji-flat",
    "fluent-emoji-high-contrast",
    "emojione",
    "openmoji",
    HELD_OUT_STYLE,
)
TRAINING_STYLES = STYLES[:-1]
INK_STYLE = "fluent-emoji-high-contrast"  # one colour: black or white, whichever is seen

# By number of objects: the range of an object's longer side, as a fraction of the image.
SCALES = {1: (0.3, 0.9), 2: (0.25, 0.55), 3: (0.22, 0.45), 4: (0.2, 0.4)}
COUNTS = (0.4, 0.35, 0.15, 0.1)  # how often a scene has one, two, three, four objects
MAX_COUNT = 9  # objects; more do not fit
MAX_OVERLAP = 0.1  # of the smaller of two boxes
BACKGROUND_SIZE = 224  # backgrounds are painted at this size and scaled
BANK = 64  # paintings of each kind of background

COLOURS = {
    "red": (200, 50, 50),
    "orange": (240, 150, 60),
    "yellow": (245, 220, 100),
    "green": (90, 170, 90),
    "blue": (80, 120, 210),
    "purple": (140, 90, 170),
    "pink": (245, 170, 190),
    "brown": (130, 95, 70),
    "grey": (150, 150, 150),
    "white": (250, 250, 250),
    "black": (20, 20, 20),
}

PROMPTS = ("{}", "a picture of {}", "a photo of {}", "a drawing of {}", "an emoji of {}")
PAIRS = ("{} and {}", "{} next to {}", "{} with {}", "{} beside {}", "a picture of {} and {}")


@dataclass(frozen=True)
class Concept:
    name: str
    group: str
    phrases: tuple[str, ...]  # with article, the plainest first
    glyphs: tuple[str, ...]  # code points, in hexadecimal


@dataclass(frozen=True)
class SceneObject:
    concept: int  # index into concepts()
    style: str
    glyph: str
    mask: Bool[np.ndarray, "row column"]  # where it is seen: what hides it is cut out


@dataclass(frozen=True)
class Scene:
    image: UInt8[np.ndarray, "row column 3"]  # RGB
    objects: tuple[SceneObject, ...]
    background: str
    caption: str


@cache
def concepts() -> tuple[Concept, ...]:
    """All concepts, in the order of `concepts.json`."""
    entries = json.loads((HERE / "concepts.json").read_text(encoding="utf-8"))
    return tuple(
        Concept(e["name"], e["group"], tuple(e["phrases"]), tuple(e["glyphs"])) for e in entries
    )


@cache
def concept_index() -> dict[str, int]:
    return {concept.name: i for i, concept in enumerate(concepts())}


@cache
def sprites(style: str) -> dict[str, tuple[UInt8[np.ndarray, "cell cell 4"], ...]]:
    """Glyph -> sprite of one style at a quarter, half and full size. Some glyphs may be missing.

    RGBA with premultiplied colours, so that scaling bleeds no colour of transparent pixels in.
    """
    index = json.loads((HERE / "sprites" / "index.json").read_text(encoding="utf-8"))
    cell, columns = index["cell"], index["columns"]
    path = HERE / "sprites" / f"{style}.png"
    atlas = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)
    atlas = cv2.cvtColor(atlas, cv2.COLOR_RGBA2mRGBA)
    found = {}
    for place, glyph in enumerate(index["styles"][style]["glyphs"]):
        top, left = cell * (place // columns), cell * (place % columns)
        sprite = np.ascontiguousarray(atlas[top : top + cell, left : left + cell])
        half, quarter = (
            cv2.resize(sprite, (cell // n, cell // n), interpolation=cv2.INTER_AREA) for n in (2, 4)
        )
        found[glyph] = (quarter, half, sprite)
    return found


@cache
def drawable(concept: int, styles: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The (style, glyph) pairs that can show a concept."""
    glyphs = concepts()[concept].glyphs
    return tuple((style, glyph) for style in styles for glyph in glyphs if glyph in sprites(style))


@cache
def textures() -> tuple[UInt8[np.ndarray, "row column"], ...]:
    """Grey photographs of surfaces."""
    paths = sorted((HERE / "textures").glob("*.png"))
    return tuple(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths)


def draw_scene(
    seed: int | tuple[int, ...],
    *,
    size: int = 224,
    styles: tuple[str, ...] = TRAINING_STYLES,
    names: tuple[str, ...] | None = None,
    count: int | None = None,
    background: str | None = None,
    scale: tuple[float, float] | None = None,
    varied: bool = False,
) -> Scene:
    """Draw the scene that follows from `seed`.

    names: the concepts to show, else `count` of them at random, else one to four.
    background: a key of BACKGROUNDS or COLOURS, else at random.
    scale: range of the objects' longer side as a fraction of the image, else by their number.
    varied: objects in other colours, outlines and surfaces than their style's (`variations.py`).

    Raises ValueError for names, styles, counts and scales that there are not.
    """
    check_request(styles, names, count, background, scale)
    rng = np.random.default_rng(seed)
    if names is not None:
        chosen = [concept_index()[name] for name in names]
    else:
        count = count or 1 + int(rng.choice(len(COUNTS), p=COUNTS))
        chosen = [int(i) for i in rng.choice(len(concepts()), size=count, replace=False)]
    ground, canvas = _draw_background(rng, background, size)
    scale = scale or SCALES[min(len(chosen), max(SCALES))]
    boxes = _place(rng, len(chosen), scale)
    owner = np.zeros((size, size), np.uint8)
    drawn = []
    for number, (concept, box) in enumerate(zip(chosen, boxes, strict=True), start=1):
        options = drawable(concept, tuple(styles))
        style, glyph = options[rng.integers(len(options))]
        sprite, ink = sprites(style)[glyph], style == INK_STYLE
        _paste(rng, canvas, owner, number, sprite, box, ink=ink, varied=varied)
        drawn.append((concept, style, glyph))
    objects = tuple(SceneObject(*d, owner == i) for i, d in enumerate(drawn, start=1))
    return Scene(canvas, objects, ground, _caption(rng, chosen, ground))


def check_request(styles, names, count, background, scale) -> None:
    """Say what a scene cannot be made of, and what it can."""
    if isinstance(styles, str) or not styles or set(styles) - set(STYLES):
        raise ValueError(f"styles must be a tuple of some of {', '.join(STYLES)}; got {styles!r}")
    if names is not None:
        unknown = [name for name in names if name not in concept_index()]
        if unknown or not names:
            raise ValueError(f"unknown concepts {unknown}; concepts() lists what can be drawn")
        missing = [name for name in names if not drawable(concept_index()[name], tuple(styles))]
        if missing:
            raise ValueError(f"{', '.join(missing)} cannot be drawn in {', '.join(styles)}")
    if count is not None and not 1 <= count <= MAX_COUNT:
        raise ValueError(f"a scene has 1 to {MAX_COUNT} objects; got {count}")
    if background not in (None, "plain", *BACKGROUNDS, *COLOURS):
        known = ", ".join((*BACKGROUNDS, *COLOURS))
        raise ValueError(f"unknown background {background!r}; there are {known}")
    if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale must be a range of fractions of the image; got {scale}")


def _place(
    rng: np.random.Generator, count: int, scale: tuple[float, float]
) -> list[tuple[float, float, float]]:
    """Squares (left, top, side) in fractions of the image that hardly overlap."""
    for attempt in range(200):
        # When it does not fit, try smaller objects: the loop always ends.
        shrink = 0.99**attempt
        sides = rng.uniform(*scale, size=count) * shrink
        corners = rng.uniform(size=(count, 2)) * (1 - sides[:, None])
        boxes = [(x, y, s) for (x, y), s in zip(corners, sides, strict=True)]
        pairs = ((a, b) for i, a in enumerate(boxes) for b in boxes[:i])
        if all(_overlap(a, b) <= MAX_OVERLAP for a, b in pairs):
            return boxes
    return boxes


def _overlap(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    """Common area of two squares over the area of the smaller."""
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[2], b[1] + b[2]) - max(a[1], b[1])
    return max(wide, 0) * max(high, 0) / min(a[2], b[2]) ** 2


def _paste(rng, canvas, owner, number, sprite, box, *, ink, varied) -> None:
    """Blend a sprite into `canvas`, turned, mirrored and tinted a little; mark it in `owner`."""
    size = len(canvas)
    left, top, side = (round(value * size) for value in box)
    side = min(max(side, 8), size - left, size - top)
    # From the smallest version that is large enough, so that shrinking skips no pixel.
    sprite = next((s for s in sprite if len(s) >= side), sprite[-1])
    cell, mirror = len(sprite), rng.choice((-1, 1))
    turn = cv2.getRotationMatrix2D((0, 0), rng.uniform(-15, 15), 0.95 * side / cell)
    turn[:, 0] *= mirror
    turn[:, 2] = (side - 1) / 2 - turn[:, :2].sum(1) * (cell - 1) / 2
    sprite = cv2.warpAffine(sprite, turn, (side, side), flags=cv2.INTER_LINEAR)
    if varied:
        sprite = vary(rng, sprite)
    alpha = sprite[..., 3:].astype(np.float32) / 255
    under = canvas[top : top + side, left : left + side]
    if ink:
        colour = (15 if under.mean() > 110 else 240) * alpha
    else:
        # A tint moves colours, but never above white (premultiplied: above alpha).
        tint = rng.uniform(0.85, 1.15, size=3).astype(np.float32)
        colour = np.minimum(sprite[..., :3] * tint, sprite[..., 3:])
    under[:] = under * (1 - alpha) + colour + 0.5
    owner[top : top + side, left : left + side][sprite[..., 3] > 127] = number


def _caption(rng: np.random.Generator, chosen: list[int], ground: str) -> str:
    phrases = []
    for concept in chosen:
        options = concepts()[concept].phrases
        # The plainest phrase half the time, so that it is learnt best.
        phrases.append(options[0 if rng.random() < 0.5 else rng.integers(len(options))])
    order = rng.permutation(len(phrases))
    phrases = [phrases[i] for i in order]
    if len(phrases) == 1:
        text = PROMPTS[rng.integers(len(PROMPTS))].format(*phrases)
    elif len(phrases) == 2:
        text = PAIRS[rng.integers(len(PAIRS))].format(*phrases)
    else:
        text = ", ".join(phrases[:-1]) + " and " + phrases[-1]
    if rng.random() < 0.5:
        words = BACKGROUNDS[ground][1] if ground in BACKGROUNDS else f"on a {ground} background"
        text = f"{text} {words}" if words else text
    return text


def _draw_background(
    rng: np.random.Generator, name: str | None, size: int
) -> tuple[str, UInt8[np.ndarray, "row column 3"]]:
    if name is None:
        kinds = [*BACKGROUNDS, "plain", "plain", "plain", "plain"]
        name = kinds[rng.integers(len(kinds))]
    if name == "plain":
        name = list(COLOURS)[rng.integers(len(COLOURS))]
    if name in COLOURS:
        colour = np.array(COLOURS[name]) + rng.normal(0, 12, size=3)
        return name, np.full((size, size, 3), np.clip(colour, 0, 255), np.uint8)
    bank = _painted(name)
    canvas = bank[rng.integers(len(bank))]
    if rng.random() < 0.5:
        canvas = canvas[:, ::-1]
    # Always a copy: the bank is shared.
    return name, cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).copy()


@cache
def _painted(name: str) -> tuple[UInt8[np.ndarray, "row column 3"], ...]:
    """A bank of backgrounds of one kind: painting each scene's own would take most of its time."""
    rng = np.random.default_rng(list(name.encode()))
    paint = BACKGROUNDS[name][0]
    return tuple(np.clip(paint(rng), 0, 255).astype(np.uint8) for _ in range(BANK))


def _noise(rng, rows: int, columns: int) -> np.ndarray:
    """Smooth grey noise in [-1, 1] with features of size/rows by size/columns."""
    coarse = rng.uniform(-1, 1, size=(rows, columns)).astype(np.float32)
    size = (BACKGROUND_SIZE, BACKGROUND_SIZE)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)[..., None]


def _blend(top, bottom, amount: np.ndarray) -> np.ndarray:
    """Colour `top` where amount is 0, `bottom` where it is 1."""
    top, bottom = np.asarray(top, np.float32), np.asarray(bottom, np.float32)
    return top + (bottom - top) * amount


def _ramp() -> np.ndarray:
    return np.linspace(0, 1, BACKGROUND_SIZE, dtype=np.float32)[:, None, None] * np.ones(
        (1, BACKGROUND_SIZE, 1), np.float32
    )


def _gradient(rng):
    ends = rng.uniform(30, 250, size=(2, 3))
    return np.rot90(_blend(*ends, _ramp()), rng.integers(4))


def _texture(rng):
    texture = textures()[rng.integers(len(textures()))]
    top, left = rng.integers(0, np.array(texture.shape) - BACKGROUND_SIZE + 1)
    patch = texture[top : top + BACKGROUND_SIZE, left : left + BACKGROUND_SIZE, None] / 255
    return _blend(rng.uniform(0, 110, size=3), rng.uniform(140, 255, size=3), patch)


def _grass(rng):
    blades = 0.6 * _noise(rng, 40, 160) + 0.4 * _noise(rng, 6, 6)
    return _blend((40, 100, 30), (130, 190, 80), 0.5 + 0.5 * blades)


def _sky(rng):
    haze = np.clip(_noise(rng, 5, 4), 0, 1) * 0.6
    return _blend(_blend((90, 150, 225), (190, 220, 245), _ramp()), (250, 250, 255), haze)


def _sea(rng):
    waves = 0.5 + 0.3 * _noise(rng, 60, 8) + 0.2 * _noise(rng, 20, 3)
    return _blend((15, 70, 130), (70, 160, 200), waves)


def _night(rng):
    canvas = _blend((8, 10, 35), (35, 35, 80), _ramp())
    spots = rng.integers(0, BACKGROUND_SIZE, size=(60, 2))
    canvas[spots[:, 0], spots[:, 1]] = rng.uniform(120, 255, size=(60, 1))
    return canvas


def _snow(rng):
    return _blend((205, 215, 230), (252, 253, 255), 0.6 + 0.4 * _noise(rng, 8, 6))


def _sand(rng):
    grains = 0.5 + 0.25 * _noise(rng, 150, 150) + 0.25 * _noise(rng, 12, 4)
    return _blend((195, 160, 105), (235, 210, 160), grains)


# Name -> (painter, words of a caption).
BACKGROUNDS = {
    "gradient": (_gradient, ""),
    "texture": (_texture, ""),
    "grass": (_grass, "on grass"),
    "sky": (_sky, "in the sky"),
    "sea": (_sea, "in the sea"),
    "night": (_night, "at night"),
    "snow": (_snow, "in the snow"),
    "sand": (_sand, "on sand"),
}

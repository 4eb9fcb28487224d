"""Sprites in styles that nobody drew: what a model trained on a few styles must not rely on.

There are eight styles to train on. A model that sees each of them in many colours, outlines,
surfaces and proportions learns shapes, and knows them in a style that it has never seen.
"""

import cv2
import numpy as np
from jaxtyping import UInt8

Sprite = UInt8[np.ndarray, "side side 4"]  # RGBA, colours premultiplied


def vary(rng: np.random.Generator, sprite: Sprite) -> Sprite:
    """A sprite in other proportions, surface, colours and outline, each of them now and then."""
    if rng.random() < 0.5:
        sprite = stretched(rng, sprite)
    colours, alpha = straight(sprite)
    if rng.random() < 0.35:
        colours = flattened(rng, colours)
    if rng.random() < 0.6:
        colours = recoloured(rng, colours)
    if rng.random() < 0.15:
        colours = colours + rng.normal(0, rng.uniform(5, 20), alpha.shape)[..., None]
    if rng.random() < 0.35:
        colours, alpha = outlined(rng, colours, alpha)
    colours = np.clip(colours, 0, 255) * (alpha[..., None] / 255)
    return np.dstack([colours, alpha]).astype(np.uint8)


def straight(sprite: Sprite) -> tuple[np.ndarray, np.ndarray]:
    """Colours, float32, as they are before they are premultiplied; and alpha."""
    alpha = sprite[..., 3]
    colours = sprite[..., :3].astype(np.float32) * 255 / np.maximum(alpha, 1)[..., None]
    return np.minimum(colours, 255), alpha


def stretched(rng: np.random.Generator, sprite: Sprite) -> Sprite:
    """Narrower or lower, and sheared, about the middle."""
    middle = (len(sprite) - 1) / 2
    turn = np.eye(2) + rng.uniform(-0.15, 0.15, size=(2, 2)) * [[0, 1], [1, 0]]
    turn[rng.integers(2)] *= rng.uniform(0.7, 1)
    offset = middle - turn.sum(1) * middle
    return cv2.warpAffine(sprite, np.column_stack([turn, offset]), sprite.shape[1::-1])


def flattened(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    """Without shading: smoothed between edges, in a few steps of brightness."""
    smooth = cv2.medianBlur(colours.astype(np.uint8), 3 if len(colours) < 60 else 5)
    step = 255 / rng.integers(2, 6)
    return np.round(smooth / step) * step


def recoloured(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    """Another hue, saturation (down to grey), brightness and contrast."""
    grey = colours @ np.array([0.299, 0.587, 0.114], np.float32)
    # About the grey axis, as a rotation of hue is.
    angle = np.radians(rng.uniform(-40, 40))
    turn = cv2.Rodrigues(np.full(3, angle / np.sqrt(3)))[0].astype(np.float32)
    saturation = 0 if rng.random() < 0.15 else rng.uniform(0.4, 1.5)
    colours = grey[..., None] + saturation * (colours @ turn.T - grey[..., None])
    return (colours - 128) * rng.uniform(0.6, 1.3) + 128 + rng.uniform(-30, 30)


def outlined(
    rng: np.random.Generator, colours: np.ndarray, alpha: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """With a line of one colour, mostly dark, around it."""
    width = max(1, round(len(alpha) * rng.uniform(0.01, 0.04)))
    around = cv2.dilate(alpha, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1,) * 2))
    line = rng.uniform(0, 60, 3) if rng.random() < 0.7 else rng.uniform(0, 255, 3)
    share = alpha[..., None] / 255
    return colours * share + line * (1 - share), around

"""How maps are stored: as whole numbers or float16, each with the scale of its largest value.

A map is `scale * values / TOP`: its largest value is right to float32's precision, every other to
half of a step, scale / 510 for uint8 (maps that speak for a target only), scale / 254 for int8
(signed ones), and to three digits for float16.
"""

import json

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from torch import Tensor

TOP = {"uint8": 255, "int8": 127, "float16": 1}
KEY = b"explain"  # of what a file says of itself


def stored(
    maps: Float[np.ndarray, "image target row column"], kind: str
) -> tuple[np.ndarray, Float[np.ndarray, "image target"]]:
    """Values of that kind, in the shape of the maps, and scales."""
    if kind == "uint8" and maps.min() < 0:
        raise ValueError("a map is negative somewhere: it must be stored as int8 or float16")
    scales = np.abs(maps).max((-2, -1)).astype(np.float32)
    shares = maps / np.where(scales > 0, scales, 1)[..., None, None].astype(maps.dtype)
    values = TOP[kind] * shares
    return (values if kind == "float16" else values.round()).astype(kind), scales


def restored(
    values: np.ndarray, scales: Float[np.ndarray, " target"], shape: tuple[int, int], kind: str
) -> Float[np.ndarray, "target row column"]:
    maps = values.astype(np.float32).reshape(len(scales), *shape) / TOP[kind]
    return maps * scales[:, None, None]


def schema(kind: str, settings: dict) -> pa.Schema:
    """Of a file, with what it says of itself. A picture that cannot be explained has an error, and
    nothing in its other columns.
    """
    fields = {
        "id": pa.int64(),
        "path": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "window": pa.list_(pa.float32()),
        "rows": pa.int16(),
        "columns": pa.int16(),
        "scores": pa.list_(pa.float32()),
        "scales": pa.list_(pa.float32()),
        "maps": pa.list_(pa.type_for_alias(kind)),
        "error": pa.string(),
    }
    return pa.schema(list(fields.items()), metadata={KEY: json.dumps(settings)})


def as_numpy(maps: Tensor) -> np.ndarray:
    return maps.detach().float().cpu().numpy()

"""What a checkpoint's tensors do not tell: how many heads its towers have, and which activation.

Heads of another number, or GELU in the place of QuickGELU, give another network, whose features
and maps look like any other. So a checkpoint is computed only if both are known. A safetensors file
may say them itself, in its metadata:

    save_file(weights, path, metadata={"activation": "gelu", "heads": "16, 12"})

and a configuration beside any file does (`claims.py`). What is said twice must agree.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints import EMBEDDED, OFFICIAL, SIGLIP, Checkpoint, CheckpointError
from checkpoints.errors import AnotherNetwork
from model import ACTIVATIONS, HEAD_WIDTH, architecture, divisors
from preprocessing import INTERPOLATIONS, OPENAI, RESIZE_MODES, Preprocessing

Heads = int | tuple[int, int]

VOCABULARY = 49408  # OpenAI's; its largest token ends a text

# Heads of the towers of public CLIPs in this layout, by width and number of layers, from
# open_clip/model_configs at version 3.3: S, M, B, B-plus, L, H, g, bigG, e, and the ResNets.
IMAGE_HEADS = {
    (384, 12): 6,
    (512, 12): 8,
    (768, 12): 12,
    (896, 12): 14,
    (1024, 24): 16,
    (1280, 32): 16,
    (1408, 40): 16,
    (1664, 48): 16,
    (1792, 56): 16,
    (64, (3, 4, 6, 3)): 32,
    (64, (3, 4, 23, 3)): 32,
    (80, (4, 6, 10, 6)): 40,
    (96, (6, 8, 18, 8)): 48,
    (128, (3, 15, 36, 10)): 64,
}
TEXT_HEADS = {
    (256, 10): 4,
    (384, 12): 6,
    (512, 12): 8,
    (640, 12): 10,
    (768, 12): 12,
    (1024, 12): 16,
    (1024, 24): 16,
    (1280, 32): 20,
    (1280, 36): 20,
}


class Configuration(NamedTuple):
    """None is what is not known."""

    activation: str | None
    image_heads: int | None  # of each block, or of a ResNet's attention pool
    text_heads: int | None

    @property
    def heads(self) -> tuple[int | None, int | None]:
        return self.image_heads, self.text_heads


def require_options(name: Any, activation: Any = None, heads: Any = None, **pictures: Any) -> None:
    """Raise ValueError for options that no checkpoint has, or not the model called `name`.

    pictures: fields of Preprocessing.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {list(ACTIVATIONS)}, got {activation!r}")
    pair = heads if isinstance(heads, tuple | list) else (heads, heads)
    if heads is not None and not (len(pair) == 2 and all(type(n) is int and n > 0 for n in pair)):
        raise ValueError(
            f"heads must be the image tower's number, or those of image and text, got {heads!r}"
        )
    for field, known in (("interpolation", INTERPOLATIONS), ("resize_mode", RESIZE_MODES)):
        if pictures.get(field) is not None and pictures[field] not in known:
            raise ValueError(f"{field} must be one of {list(known)}, got {pictures[field]!r}")
    for field, least in (("mean", -math.inf), ("std", 0)):
        given = pictures.get(field)
        if given is not None and not (
            isinstance(given, tuple | list)
            and len(given) == 3
            and all(isinstance(n, int | float) and least < n < math.inf for n in given)
        ):
            positive = " above 0" if least == 0 else ""
            raise ValueError(
                f"{field} must be three numbers{positive}, of red, green and blue, got {given!r}"
            )
    if str(name) == SIGLIP and heads is not None:
        raise ValueError(f"heads of {SIGLIP} are known; leave them out, got {heads!r}")
    if str(name) in (*EMBEDDED, *OFFICIAL):
        usual = "gelu_tanh" if str(name) == SIGLIP else "quickgelu"
        known = {"activation": usual, **OPENAI._asdict()}
        _require_agreement(name, known, {"activation": activation, **pictures})


def configuration(
    checkpoint: Checkpoint, activation: str | None = None, heads: Heads | None = None
) -> Configuration:
    """How the checkpoint is computed, from what is known of it and what is given.

    Raises CheckpointError if that is not all, saying what to give, and if what is given or said
    contradicts what is known; ValueError if names and shapes are not a CLIP's.
    """
    shape = architecture(checkpoint.weights)
    known = known_configuration(checkpoint, shape)
    image, text = heads if isinstance(heads, tuple | list) else (heads, None)
    found = _joined(checkpoint.path, known, Configuration(activation, image, text))
    if None in found:
        raise CheckpointError(
            f"{checkpoint.path} does not say how it is computed, and its tensors cannot tell: give "
            + " and ".join(_questions(found, shape))
            + ". Commands read them in a safetensors file's metadata (checkpoints/configuration.py)"
            " or in a configuration beside the file (checkpoints/claims.py)"
        )
    return found


def known_configuration(checkpoint: Checkpoint, shape: dict) -> Configuration:
    """What is known without being given; `shape` is the checkpoint's architecture."""
    known = Configuration(None, None, None)
    if checkpoint.claims is not None:
        checkpoint.claims.require(shape, checkpoint.path)
        known = Configuration(checkpoint.claims.activation, *checkpoint.claims.heads)
    if checkpoint.openais:
        heads = (w // HEAD_WIDTH if w % HEAD_WIDTH == 0 else None for w in _widths(shape))
        return _joined(checkpoint.path, known, Configuration("quickgelu", *heads))
    if shape["vocab_size"] > VOCABULARY:
        raise AnotherNetwork(
            f"{checkpoint.path} has a vocabulary of {shape['vocab_size']:,} tokens instead of "
            f"OpenAI's {VOCABULARY:,}: which token ends a text cannot be told"
        )
    activation, heads = said(checkpoint)
    known = _joined(checkpoint.path, known, Configuration(activation, *(heads or (None, None))))
    if known.heads == (None, None):  # of a public CLIP, perhaps
        image = shape["vision_width"], shape["vision_layers"]
        text = shape["transformer_width"], shape["transformer_layers"]
        known = Configuration(known.activation, IMAGE_HEADS.get(image), TEXT_HEADS.get(text))
    return known


def preprocessing_for(checkpoint: Checkpoint, **given: Any) -> Preprocessing:
    """What pictures go through: as is known of the checkpoint, or given; where neither, OpenAI's.

    Raises CheckpointError if what is given contradicts what is known.
    """
    known = OPENAI if checkpoint.openais else None
    if checkpoint.claims is not None and checkpoint.claims.preprocessing is not None:
        known = checkpoint.claims.preprocessing
    given = {
        field: tuple(map(float, value)) if field in ("mean", "std") else value
        for field, value in given.items()
        if value is not None
    }
    _require_agreement(checkpoint.path, known._asdict() if known else {}, given)
    return (known or OPENAI)._replace(**given)


def _joined(path: Path, known: Configuration, other: Configuration) -> Configuration:
    _require_agreement(path, known._asdict(), other._asdict())
    return Configuration(*(a if b is None else b for a, b in zip(known, other, strict=True)))


def _require_agreement(name: Any, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for field, value in given.items():
        value = tuple(value) if isinstance(value, list) else value
        if None not in (value, known.get(field)) and value != known[field]:
            raise CheckpointError(
                f"{name}: {field} {value!r} contradicts what is known of the model, "
                f"{known[field]!r}"
            )


def said(checkpoint: Checkpoint) -> tuple[str | None, tuple[int, int] | None]:
    """Activation, and heads of image and text, as a file's metadata says, or None."""
    activation = checkpoint.metadata.get("activation")
    heads = checkpoint.metadata.get("heads")
    try:
        if heads is not None:
            image, text = map(int, heads.split(","))
            heads = image, text
        require_options(checkpoint.path, activation, heads)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.path} has metadata activation={activation!r} and heads={heads!r}; they "
            f"must be one of {list(ACTIVATIONS)}, and two numbers such as '16, 12'"
        ) from error
    return activation, heads


def _questions(found: Configuration, shape: dict) -> Iterator[str]:
    if found.activation is None:
        yield (
            "activation='quickgelu' (OpenAI's weights, and files named so) or activation='gelu' "
            "(OpenCLIP's of LAION, DataComp and most others)"
        )
    image, text = map(divisors, _widths(shape))
    if found.text_heads is None:
        yield f"heads=(image, text), with image one of {image} and text one of {text}"
    elif found.image_heads is None:
        yield f"heads=, of the image tower, one of {image}"


def _widths(shape: dict) -> tuple[int, int]:
    """Of the image tower's attention (a ResNet's is its pool's) and the text tower's."""
    cell = 1 if isinstance(shape["vision_layers"], int) else 32
    return cell * shape["vision_width"], shape["transformer_width"]

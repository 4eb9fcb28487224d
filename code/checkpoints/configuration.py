"""What a checkpoint's tensors do not tell: how many heads its towers have, and which activation.

Heads of another number, or GELU in the place of QuickGELU, give another network, whose features
and maps look like any other. So a checkpoint is computed only if both are known. A safetensors file
may say them itself, in its metadata:

    save_file(weights, path, metadata={"activation": "gelu", "heads": "16, 12"})
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from checkpoints import EMBEDDED, OFFICIAL, Checkpoint, CheckpointError
from model import ACTIVATIONS, HEAD_WIDTH, architecture, divisors

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


def require_options(name: Any, activation: Any, heads: Any) -> None:
    """Raise ValueError for options that no checkpoint has, or not the model called `name`."""
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {list(ACTIVATIONS)}, got {activation!r}")
    if str(name) in (*EMBEDDED, *OFFICIAL) and activation not in (None, "quickgelu"):
        raise CheckpointError(
            f"{name}: activation {activation!r} contradicts what is known of the model, 'quickgelu'"
        )
    pair = heads if isinstance(heads, tuple | list) else (heads, heads)
    if heads is not None and not (len(pair) == 2 and all(type(n) is int and n > 0 for n in pair)):
        raise ValueError(
            f"heads must be the image tower's number, or those of image and text, got {heads!r}"
        )


def configuration(
    checkpoint: Checkpoint, activation: str | None, heads: Heads | None
) -> Configuration:
    """How the checkpoint is computed, from what is known of it and what is given.

    Raises CheckpointError if that is not all, saying what to give, and if what is given contradicts
    what is known; ValueError if names and shapes are not a CLIP's.
    """
    shape = architecture(checkpoint.weights)
    known = known_configuration(checkpoint, shape)
    given = Configuration(
        activation, *(heads if isinstance(heads, tuple | list) else (heads, None))
    )
    for field, known_value, given_value in zip(known._fields, known, given, strict=True):
        if None not in (known_value, given_value) and known_value != given_value:
            raise CheckpointError(
                f"{checkpoint.path}: {field} {given_value!r} contradicts what is known of the "
                f"model, {known_value!r}"
            )
    found = Configuration(*(a if b is None else b for a, b in zip(known, given, strict=True)))
    if None in found:
        raise CheckpointError(
            f"{checkpoint.path} does not say how it is computed, and its tensors cannot tell: give "
            + " and ".join(_questions(found, shape))
            + ". Commands read them in a safetensors file's metadata (checkpoints/configuration.py)"
        )
    return found


def known_configuration(checkpoint: Checkpoint, shape: dict) -> Configuration:
    """What is known without being given; `shape` is the checkpoint's architecture."""
    if checkpoint.openais:
        heads = (w // HEAD_WIDTH if w % HEAD_WIDTH == 0 else None for w in _widths(shape))
        return Configuration("quickgelu", *heads)
    if shape["vocab_size"] > VOCABULARY:
        raise CheckpointError(
            f"{checkpoint.path} has a vocabulary of {shape['vocab_size']:,} tokens instead of "
            f"OpenAI's {VOCABULARY:,}: which token ends a text cannot be told"
        )
    activation, heads = said(checkpoint)
    if heads is None:  # of a public CLIP, perhaps
        image = shape["vision_width"], shape["vision_layers"]
        text = shape["transformer_width"], shape["transformer_layers"]
        heads = IMAGE_HEADS.get(image), TEXT_HEADS.get(text)
    return Configuration(activation, *heads)


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

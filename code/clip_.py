"""Load a CLIP and prepare what it reads: images and texts.

model, preprocess = load("ViT-emoji")
image = preprocess(Image.open("horse.png")).unsqueeze(0)
score = similarity_score(model, image, model.encode_text(tokenize("a horse")))
"""

from functools import cache
from os import PathLike

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import transforms

import checkpoints
from checkpoints import available_models
from configuration import configuration, require_options
from model import CLIP, build_model, convert_weights
from simple_tokenizer import END, START, SimpleTokenizer

__all__ = ["available_models", "load", "make_preprocess", "similarity_score", "to_rgb", "tokenize"]

DEFAULT_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Mean and standard deviation of the pixels OpenAI trained on: red, green, blue, in [0, 1].
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


def load(
    name: str | PathLike,
    device: str | torch.device = DEFAULT_DEVICE,
    jit: bool = False,
    download_root: str | PathLike | None = None,
    *,
    dtype: torch.dtype | None = None,
    activation: str | None = None,
    heads: int | tuple[int, int] | None = None,
) -> tuple[CLIP, transforms.Compose]:
    """A CLIP in evaluation mode, and the transform from a PIL image to what it reads.

    `name` is one of `available_models()`, or the path of a TorchScript archive as OpenAI ships
    them, a state dict (also in a training checkpoint), or a safetensors file. Official models are
    downloaded once, to `download_root` (default `~/.cache/clip`). `dtype` defaults to float16 on
    CUDA (with float32 normalisations, as OpenAI's) and to float32 elsewhere.

    What the tensors of a file do not tell is to be given: `activation`, "quickgelu" or "gelu", and
    `heads`, those of the image tower or a pair, of image (a ResNet's attention pool) and text.
    Known are those of OpenAI's archives and of the embedded models, and the heads of public CLIPs.

    Raises `checkpoints.CheckpointError` (a RuntimeError and a ValueError) if the weights cannot be
    had, do not fit together, or could be those of several networks, and ValueError if `jit` is
    asked for.
    """
    if jit:
        raise ValueError(
            "jit=True: a TorchScript model cannot be explained, its attention cannot be recorded; "
            "load with jit=False"
        )
    require_options(name, activation, heads)
    device = torch.device(device)
    checkpoint = checkpoints.read(name, download_root)
    with checkpoints.errors_of(checkpoint.path):
        found = configuration(checkpoint, activation, heads)
        model = build_model(checkpoint.weights, activation=found.activation, heads=found.heads)
        if dtype is None:
            dtype = torch.float16 if device.type == "cuda" else torch.float32
        convert_weights(model, dtype)
    return model.to(device), make_preprocess(model.visual.input_resolution)


def make_preprocess(resolution: int) -> transforms.Compose:
    """The transform from any PIL image to `Float[Tensor, "3 resolution resolution"]`.

    For an RGB image it is OpenAI's. Other images become RGB first: OpenAI's resizes them as they
    are, which for palettes means without interpolation.
    """
    return transforms.Compose(
        [
            to_rgb,
            transforms.Resize(resolution, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(resolution),
            transforms.ToTensor(),
            transforms.Normalize(PIXEL_MEAN, PIXEL_STD),
        ]
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` as a viewer shows it: upright (EXIF), 8 bits a channel, RGB.

    Transparent parts show white, the paper most figures are printed on. Modes I;16 and I hold
    16-bit grey, 65535 white (what is outside is clipped); floats (mode F) are 255 where white.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"preprocess takes a PIL image, got {type(image).__module__}.{type(image).__name__}; "
            "for arrays see PIL.Image.fromarray"
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return grey_16_to_8_bit(image).convert("RGB")
    if image.mode == "La":  # pre-multiplied; PIL converts it to LA only
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def grey_16_to_8_bit(image: Image.Image) -> Image.Image:
    """PIL's own conversion clips at 255 instead of scaling."""
    levels = np.asarray(image).astype(np.float32).clip(0, 65535)
    return Image.fromarray((levels / 257).round().astype(np.uint8))  # 257 = 65535 / 255


@cache
def default_tokenizer() -> SimpleTokenizer:
    """Read on first use: the vocabulary takes a moment."""
    return SimpleTokenizer()


def tokenize(
    texts: str | list[str], context_length: int = 77, truncate: bool = False
) -> Int[Tensor, "text context_length"]:
    """Token ids of one text or several: start, text, end, then zeros. All CLIPs of OpenAI read 77.

    Raises RuntimeError for a text that is too long, unless `truncate`: then it is cut, and ends
    with the end token all the same.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    tokenizer = default_tokenizer()
    start, end = tokenizer.encoder[START], tokenizer.encoder[END]
    result = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(result, texts, strict=True):
        if not isinstance(text, str):
            raise TypeError(f"texts must be strings, got {type(text).__name__}: {text!r}")
        tokens = [start, *tokenizer.encode(text), end]
        if len(tokens) > context_length:
            if not truncate:
                raise RuntimeError(
                    f"text is too long: {len(tokens)} tokens with start and end, but the context "
                    f"length is {context_length}; shorten it, or pass truncate=True to cut it: "
                    f"{_abbreviated(text)!r}"
                )
            tokens = [*tokens[: context_length - 1], end]
        row[: len(tokens)] = torch.tensor(tokens)
    return result


def _abbreviated(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def similarity_score(
    clip_model: CLIP,
    image: Float[Tensor, "1 3 height width"],
    target_features: Float[Tensor, "1 feature"],
) -> Float[Tensor, ""]:
    """100 times the cosine of the image's features and the target's; differentiable.

    Raises ValueError unless there is one image and one finite, non-zero target of its width.
    """
    features = clip_model.encode_image(image)
    target = target_features.to(features.device)
    if target.ndim == 1:
        target = target.unsqueeze(0)
    if len(features) != 1 or target.shape != features.shape:
        raise ValueError(
            "similarity_score compares one image [1, 3, height, width] with one target "
            f"[1, {features.shape[-1]}]; got {list(image.shape)} and {list(target_features.shape)}"
        )
    if not (target.isfinite().all() and target.any()):
        raise ValueError("target features must be finite and not all zero")
    # Half precision has too few digits for a score that is read to two decimals.
    dtype = torch.promote_types(torch.promote_types(features.dtype, target.dtype), torch.float32)
    return 100 * F.cosine_similarity(features.to(dtype), target.to(dtype)).squeeze(0)

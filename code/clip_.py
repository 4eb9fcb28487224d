"""Load a CLIP and prepare what it reads: images and texts.

model, preprocess = load("ViT-emoji")
image = preprocess(Image.open("horse.png")).unsqueeze(0)
score = similarity_score(model, image, model.encode_text(tokenize("a horse")))
"""

from collections.abc import Iterable
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
from checks import require_finite, require_tensor, type_name
from model import CLIP, build_model, convert_weights
from objective import LOGIT_SCALE, feature_lengths, moderate, require_targets
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
) -> tuple[CLIP, transforms.Compose]:
    """A CLIP in evaluation mode, and the transform from a PIL image to what it reads.

    `name` is one of `available_models()`, or the path of a TorchScript archive as OpenAI ships
    them, a state dict, or a safetensors file. Official models are downloaded once, to
    `download_root` (default `~/.cache/clip`). `dtype` defaults to float16 on CUDA (with float32
    normalisations, as OpenAI's) and to float32 elsewhere.

    Raises `checkpoints.CheckpointError` (a RuntimeError) if the weights cannot be had, and
    ValueError if they do not fit together or `jit` is asked for.
    """
    if jit:
        raise ValueError(
            "jit=True: a TorchScript model cannot be explained, its attention cannot be recorded; "
            "load with jit=False"
        )
    model = build_model(checkpoints.load_state_dict(name, download_root))
    if dtype is None:
        dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    return convert_weights(model, dtype).to(device), make_preprocess(model.visual.input_resolution)


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
    if not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a string or a list of strings; got {type_name(texts)}")
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
    """100 times the cosine of the image's features and the target's; differentiable, and without
    autocast.

    Raises TypeError or ValueError unless there is one finite image and one finite, non-zero target
    of its width.
    """
    require_tensor(image, "the image must be a tensor: preprocess(picture).unsqueeze(0)")
    require_finite(image, "images")
    if isinstance(target_features, Tensor) and target_features.ndim == 1:
        target_features = target_features.unsqueeze(0)
    require_targets(target_features)
    with torch.autocast(image.device.type, enabled=False):
        features = clip_model.encode_image(image)
    target = target_features.to(features.device)
    if len(features) != 1 or target.shape != features.shape:
        raise ValueError(
            "similarity_score compares one image [1, 3, height, width] with one target "
            f"[1, {features.shape[-1]}]; got {list(image.shape)} and {list(target_features.shape)}"
        )
    if not target.any():
        raise ValueError("target features are all zero: no cosine with them is defined")
    # Half precision has too few digits for a score that is read to two decimals.
    dtype = torch.promote_types(torch.promote_types(features.dtype, target.dtype), torch.float32)
    features, target = moderate(features.to(dtype)), moderate(target.to(dtype))
    feature_lengths(features)
    return LOGIT_SCALE * F.cosine_similarity(features, target).squeeze(0)

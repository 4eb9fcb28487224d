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
from PIL import ExifTags, Image
from torch import Tensor
from torchvision import transforms

import checkpoints
from checkpoints import available_models
from checks import require_finite
from model import CLIP, build_model, convert_weights
from simple_tokenizer import END, START, SimpleTokenizer

__all__ = ["available_models", "load", "make_preprocess", "similarity_score", "to_rgb", "tokenize"]

DEFAULT_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Mean and standard deviation of the pixels OpenAI trained on: red, green, blue, in [0, 1].
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
# What puts a picture upright, by the orientation in its EXIF.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    are, which for palettes means without interpolation. Where an image is extremely long, its ends,
    which are cropped in any case, are cropped before it is resized.
    """
    return transforms.Compose(
        [
            rgb_middle,
            transforms.Resize(resolution, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(resolution),
            transforms.ToTensor(),
            transforms.Normalize(PIXEL_MEAN, PIXEL_STD),
        ]
    )


def rgb_middle(image: Image.Image) -> Image.Image:
    """`to_rgb(image)`; of a longer one than 32 to 1, the middle: resized whole, it takes gigabytes.

    What is cut off is equally long at both ends, and far from what `CenterCrop` leaves.
    """
    image = to_rgb(image)
    longest = 32 * min(image.size)
    left, top = (max(0, (side - longest) // 2) for side in image.size)
    if left or top:
        image = image.crop((left, top, image.width - left, image.height - top))
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` as a viewer shows it: upright (EXIF), 8 bits a channel, RGB.

    Transparent parts show white, the paper most figures are printed on. Grey is scaled from

    - mode I;16: 16 bits, 65535 white;
    - mode I: 8 bits if no value is above 255, else 16; what is outside of them is clipped;
    - mode F: 1 is white if no value is above 1, else 255.

    Raises TypeError for what is not a PIL image, and ValueError for floats that are NaN, infinite,
    outside of [0, 255], or between those two scales, with a maximum above 1 and below 2.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"preprocess takes a PIL image, got {type(image).__module__}.{type(image).__name__}; "
            "for arrays see PIL.Image.fromarray"
        )
    image = upright(image)
    if image.mode.startswith(("I", "F")):
        return grey_to_8_bit(image).convert("RGB")
    if image.mode == "La":  # pre-multiplied; PIL converts it to LA only
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF says; as it is if its EXIF is damaged."""
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # struct.error, SyntaxError, KeyError ...: as many as there are damages
        return image
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return turned  # without EXIF, which would turn it again


def grey_to_8_bit(image: Image.Image) -> Image.Image:
    """PIL's own conversion clips at 255 instead of scaling."""
    levels = np.asarray(image).astype(np.float32)
    low, high = levels.min(), levels.max()
    white = 65535
    if image.mode == "F":
        require_finite(levels, "pixels of a picture of floats (mode F)")
        white = 1 if high <= 1.001 else 255
        if low < -0.001 * white or 1.001 < high < 2 or high > 255.255:
            raise ValueError(
                "a picture of floats (mode F) must reach from 0 to 1 or from 0 to 255; "
                f"this one reaches from {low:.4g} to {high:.4g}: scale and clip it"
            )
    elif image.mode == "I" and high <= 255:
        white = 255
    return Image.fromarray((levels.clip(0, white) * (255 / white)).round().astype(np.uint8))


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

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
from PIL import ExifTags, Image
from torch import Tensor
from torchvision import transforms

import checkpoints
from checkpoints import available_models
from checkpoints.configuration import configuration, preprocessing_for, require_options
from checks import require_finite, require_tensor, type_name
from model import CLIP, build_model, convert_weights
from objective import LOGIT_SCALE, feature_lengths, moderate, require_targets
from preprocessing import OPENAI, PIXEL_MEAN, PIXEL_STD, Preprocessing, Triple
from siglip import SigLIP, build_siglip
from simple_tokenizer import END, START, SimpleTokenizer

__all__ = [
    "PIXEL_MEAN",
    "PIXEL_STD",
    "available_models",
    "load",
    "make_preprocess",
    "similarity_score",
    "to_rgb",
    "tokenize",
]

DEFAULT_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
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
    activation: str | None = None,
    heads: int | tuple[int, int] | None = None,
    mean: Triple | None = None,
    std: Triple | None = None,
    interpolation: str | None = None,
    resize_mode: str | None = None,
) -> tuple[CLIP | SigLIP, transforms.Compose]:
    """A CLIP in evaluation mode, and the transform from a PIL image to what it reads.

    `name` is one of

    - `available_models()`; official ones are downloaded once, to `download_root` (default
      `~/.cache/clip`);
    - the path of a TorchScript archive as OpenAI ships them, or of a state dict in the layout of
      OpenAI's, open_clip's or transformers' CLIP: of torch.save (also in a training checkpoint),
      safetensors, or the index of sharded ones, `model.safetensors.index.json`;
    - a folder as the hub has them, with weights and their configuration;
    - "open_clip:MODEL/TAG", fetched by open_clip into its cache, or "hf:OWNER/NAME", by
      huggingface_hub into its; both work without a network once the files are there.

    "SigLIP-emoji" is a SigLIP (`siglip.py`), explained as every CLIP is.

    `dtype` defaults to float16 on CUDA (with float32 normalisations, as OpenAI's) and to float32
    elsewhere.

    What the tensors of a file do not tell is read from the configuration beside it,
    `open_clip_config.json`, or `config.json` and `preprocessor_config.json`; or is to be given:
    `activation`, "quickgelu", "gelu" or "gelu_tanh", and `heads`, those of the image tower or a
    pair, of image (a ResNet's attention pool) and text. Known are those of OpenAI's archives and of
    the embedded models, and the heads of public CLIPs. `mean`, `std`, `interpolation` and
    `resize_mode` are of the pictures it was trained on, see `preprocessing.Preprocessing`; where
    nothing tells, OpenAI's. They are kept as `model.visual.preprocessing`.

    Raises `checkpoints.CheckpointError` (a RuntimeError and a ValueError) if the weights cannot be
    had, do not fit together or to their configuration, are of a network that is not this one, or
    could be those of several, and ValueError if `jit` is asked for.
    """
    if jit:
        raise ValueError(
            "jit=True: a TorchScript model cannot be explained, its attention cannot be recorded; "
            "load with jit=False"
        )
    pictures = {
        "mean": mean,
        "std": std,
        "interpolation": interpolation,
        "resize_mode": resize_mode,
    }
    require_options(name, activation, heads, **pictures)
    device = torch.device(device)
    if dtype is None:
        dtype = torch.float16 if device.type == "cuda" else torch.float32
    if str(name) == checkpoints.SIGLIP and str(name) in available_models():
        siglip = build_siglip(checkpoints.read_siglip()).to(device, dtype)
        return siglip, make_preprocess(siglip.visual.input_resolution)
    checkpoint = checkpoints.read(name, download_root)
    with checkpoints.errors_of(checkpoint.path):
        found = configuration(checkpoint, activation, heads)
        preprocessing = preprocessing_for(checkpoint, **pictures)
        model = build_model(checkpoint.weights, activation=found.activation, heads=found.heads)
        convert_weights(model, dtype)
    model.visual.preprocessing = preprocessing
    resolution = model.visual.input_resolution
    return model.to(device), make_preprocess(resolution, preprocessing)


def make_preprocess(resolution: int, preprocessing: Preprocessing = OPENAI) -> transforms.Compose:
    """The transform from any PIL image to `Float[Tensor, "3 resolution resolution"]`.

    For an RGB image it is that of the library the model is from: OpenAI's, open_clip's, or
    transformers' with PIL. Other images become RGB first: those resize them as they are, which for
    palettes means without interpolation.
    """
    return transforms.Compose(
        [
            to_rgb,
            *preprocessing.square(resolution),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )


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
    given, image = image, upright(image)
    if image.mode.startswith(("I", "F")):
        return grey_to_8_bit(image, getattr(given, "filename", "")).convert("RGB")
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
    turn = turn_of(image)
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return turned  # without EXIF, which would turn it again


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What puts a picture upright, if its EXIF says and is not damaged."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # struct.error, SyntaxError, KeyError ...: as many as there are damages
        return None


def grey_to_8_bit(image: Image.Image, file: str | PathLike = "") -> Image.Image:
    """PIL's own conversion clips at 255 instead of scaling. Errors name the file it came from."""
    levels = np.asarray(image).astype(np.float32)
    low, high = levels.min(), levels.max()
    white = 65535
    if image.mode == "F":
        what = f"a picture of floats (mode F){' in ' * bool(file)}{file}"
        require_finite(levels, f"pixels of {what}")
        white = 1 if high <= 1.001 else 255
        if low < -0.001 * white or 1.001 < high < 2 or high > 255.255:
            raise ValueError(
                f"{what} must reach from 0 to 1 or from 0 to 255; "
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

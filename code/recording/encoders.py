"""What is called to encode images and texts: of a CLIP of ours, or of anybody's as it is.

    encoder = from_open_clip(model, preprocess, tokenizer)      # open_clip.create_model_and_...
    encoder = from_transformers(model, processor)               # CLIPModel, SiglipModel, ...
    encoder = from_module(model)                                # an image encoder, as timm's

Where no text and no picture is to be read, the model itself will do in their place. Neither package
is imported here: their models are known by the names of their classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from checks import require_finite, require_tensor, type_name
from model import CLIP, ModifiedResNet, VisionTransformer, patch_grid
from preprocessing import OPENAI, Preprocessing, preprocessing_of
from siglip import ImageTower, SigLIP

Images = Float[Tensor, "image 3 height width"] | Mapping[str, Tensor]
Grid = tuple[int, int]


@dataclass
class Encoder:
    """An image encoder, and where there is one, the text encoder beside it.

    model: whatever holds the parameters; it is only read.
    encode: images, as `preprocess` makes them, to features [image, feature]; a method of the model
        or of a module in it, or a function that refers to it.
    encode_texts: strings to features [text, feature].
    preprocess: a PIL image to [3, height, width]; of a NaFlex model, to what its processor returns.
    pixels: what pictures go through in `preprocess`, as far as that is known; by default OpenAI's.
    grid: rows and columns of the patches, if they cannot be told from a convolution that makes
        them.
    size: height and width of the images, if there is no `preprocess` to tell.
    pooling: what the features are read from: "CLS", "probe", or "average" of tokens; None until
        the first map is made.
    tokenizer: what makes tokens of texts, to explain these (`text_saliency.py`).
    """

    model: nn.Module
    encode: Callable[[Images], Tensor]
    encode_texts: Callable[[Sequence[str]], Tensor] | None = None
    preprocess: Callable[[Any], Tensor | Mapping[str, Tensor]] | None = None
    pixels: Preprocessing = OPENAI
    grid: Grid | None = None
    size: tuple[int, int] | None = None
    pooling: str | None = field(default=None, compare=False)
    tokenizer: Any = None

    @property
    def weight(self) -> Tensor:
        """A parameter: images are taken to its device and precision."""
        floats = (p for p in self.model.parameters() if p.is_floating_point())
        weight = next(floats, None)
        return torch.empty(0) if weight is None else weight

    def runs(self, *kinds: type[nn.Module]) -> bool:
        """Whether a network of such a class makes the features, and nothing is done around it."""
        return isinstance(self.model, kinds) and self.encode in (self.model, self.model.__call__)

    def require_images(self, images: Images) -> None:
        """Raise TypeError or ValueError unless there are images, of finite values."""
        pixels = images
        if isinstance(images, Mapping):
            pixels = images.get("pixel_values")
            require_tensor(pixels, "images must be a tensor, or what the model's processor returns")
        elif isinstance(self.model, VisionTransformer | ModifiedResNet):
            self.model.grid(images)
        else:
            patch_grid(images, 1)
        if not len(pixels):
            raise ValueError(f"there must be at least one image; got {list(pixels.shape)}")
        require_finite(pixels, "images")

    def example(self) -> Images:
        """An empty picture, as the model takes it. ValueError if its size is not known."""
        if self.preprocess is not None:
            made = self.preprocess(Image.new("RGB", (256, 256)))
            return made if isinstance(made, Mapping) else made.unsqueeze(0)
        if self.size is None:
            raise ValueError(
                "which methods explain this model is known once it has run: give an "
                "Encoder with preprocess="
            )
        return torch.zeros(1, 3, *self.size)

    def placed(self, images: Images) -> Images:
        """Images where the model is, and as precise."""
        if isinstance(images, Mapping):
            return {name: self.placed(tensor) for name, tensor in images.items()}
        if not images.is_floating_point():
            return images.to(self.weight.device)
        return images.detach().to(self.weight, copy=images.is_inference())


def encoder_of(model: Any) -> Encoder:
    """What is called to encode images with `model`, which may be

    an `Encoder`; a CLIP of ours or its image encoder; a model of open_clip, transformers or timm;
    or one of these in what torch.compile, DataParallel or peft wrap around it.

    Raises TypeError for anything else.
    """
    if isinstance(model, Encoder):
        return model
    bare = unwrapped(model)
    visual = getattr(bare, "visual", bare)
    visual = getattr(visual, "_orig_mod", visual)
    if isinstance(visual, VisionTransformer | ModifiedResNet | ImageTower):
        encodes = getattr(bare, "encode_image", None)  # a subclass may have its own
        known = (CLIP.encode_image, SigLIP.encode_image)
        own = isinstance(bare, CLIP | SigLIP) and getattr(encodes, "__func__", None) not in known
        owner, encode = (bare, encodes) if own else (visual, visual.__call__)
        size = (visual.input_resolution,) * 2
        return Encoder(owner, encode, pixels=preprocessing_of(visual), size=size)
    for library, encoder in FROM.items():
        if any(kind.__module__.split(".")[0] == library for kind in type(bare).__mro__):
            return encoder(bare)
    raise TypeError(
        "model must be a CLIP or its image encoder, a model of open_clip, transformers or timm, or "
        f"an Encoder (from_module makes one of any network); got {type_name(model)}"
    )


def unwrapped(model: Any) -> Any:
    """The model within torch.compile's, DataParallel's or peft's."""
    while isinstance(model, nn.Module):
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif type(model).__module__.split(".")[0] == "peft":
            model = model.get_base_model()  # with its adapters
        else:
            break
    return model


def from_open_clip(
    model: nn.Module,
    preprocess: Callable[[Any], Tensor] | None = None,
    tokenizer: Callable[[Sequence[str]], Tensor] | None = None,
) -> Encoder:
    """What `open_clip.create_model_and_transforms` and `get_tokenizer` return, and so a CLIP,
    CustomTextCLIP or CoCa of any image tower.
    """

    def encode_texts(texts: Sequence[str]) -> Tensor:
        return model.encode_text(tokenizer(texts).to(next(model.parameters()).device))

    visual = model.visual if hasattr(model, "visual") else model
    return Encoder(
        model,
        model.encode_image if hasattr(model, "encode_image") else model.__call__,
        encode_texts if tokenizer else None,
        preprocess,
        statistics(getattr(visual, "image_mean", None), getattr(visual, "image_std", None)),
        size=sides(getattr(visual, "image_size", None)),
        tokenizer=tokenizer,
    )


def from_transformers(model: nn.Module, processor: Any = None) -> Encoder:
    """A model with `get_image_features` (CLIP, MetaCLIP 2, SigLIP, SigLIP 2, AltCLIP, Chinese-CLIP
    ...), or an image tower that returns `image_embeds` or pools; and its AutoProcessor.
    """
    run = model.get_image_features if hasattr(model, "get_image_features") else model.__call__

    def encode(images: Images) -> Tensor:
        return pooled(run(**(images if isinstance(images, Mapping) else {"pixel_values": images})))

    def encode_texts(texts: Sequence[str]) -> Tensor:
        tokens = transformers_tokens(model, processor.tokenizer, texts)
        return pooled(model.get_text_features(**tokens.to(model.device)))

    vision = getattr(model.config, "vision_config", model.config)
    pictures = getattr(processor, "image_processor", processor)
    return Encoder(
        model,
        encode,
        encode_texts if hasattr(processor, "tokenizer") else None,
        partial(processed, processor) if processor else None,
        statistics(getattr(pictures, "image_mean", None), getattr(pictures, "image_std", None)),
        size=sides(getattr(vision, "image_size", None)),
        tokenizer=getattr(processor, "tokenizer", None),
    )


def processed(processor: Any, image: Image.Image) -> Tensor | Mapping[str, Tensor]:
    """A picture as a processor of transformers prepares it."""
    made = processor(images=image, return_tensors="pt")
    return made if "spatial_shapes" in made else made["pixel_values"][0]


def transformers_tokens(model: nn.Module, tokenizer: Any, texts: str | Sequence[str]) -> Any:
    """What a tokenizer of transformers makes of texts for a model."""
    longest = model.config.text_config.max_position_embeddings
    return tokenizer(
        [texts] if isinstance(texts, str) else list(texts),
        # SigLIP was trained with every text padded to the same length.
        padding="max_length" if "siglip" in model.config.model_type else True,
        truncation=True,
        max_length=min(longest, tokenizer.model_max_length),
        return_tensors="pt",
    )


def pooled(output: Any) -> Tensor:
    """The features in what a model of transformers returns."""
    for name in ("image_embeds", "text_embeds", "pooler_output"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    return output


def from_module(
    encode: Callable[[Images], Tensor],
    *,
    grid: Grid | None = None,
    preprocess: Callable[[Any], Tensor] | None = None,
    pixels: Preprocessing = OPENAI,
) -> Encoder:
    """Any network that returns an embedding of images: a module (of timm, with `num_classes=0`), or
    a method of one.

    Raises TypeError for a function, whose network is not known: give a module's method.
    """
    owner = getattr(encode, "__self__", encode)
    if not isinstance(owner, nn.Module) or not callable(encode):
        raise TypeError(
            "encode must be a network (nn.Module), or a method of one, that makes features of "
            f"images; got {type_name(encode)}"
        )
    called = encode if encode is not owner else encode.__call__
    known = getattr(owner, "pretrained_cfg", None) or {}  # of timm
    size = known.get("input_size", (None,))[1:] or None
    return Encoder(owner, called, None, preprocess, pixels, grid, size)


def statistics(mean: Sequence[float] | None, std: Sequence[float] | None) -> Preprocessing:
    """OpenAI's preprocessing with other statistics, if there are."""
    return OPENAI if None in (mean, std) else OPENAI._replace(mean=tuple(mean), std=tuple(std))


def sides(size: Any) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size and tuple(size)


FROM = {"open_clip": from_open_clip, "transformers": from_transformers, "timm": from_module}

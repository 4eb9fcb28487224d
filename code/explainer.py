"""A model with what it takes to explain pictures by it: for commands, figures and notebooks."""

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision import transforms

from checkpoints.errors import AnotherNetwork
from checkpoints.hubs import HUB, OPEN_CLIP, package
from clip_ import DEFAULT_DEVICE, load, tokenize
from image_utils import normalise_pixels, open_image
from model import CLIP, ModifiedResNet, VisionTransformer
from objective import LOGIT_SCALE, target_directions
from preprocessing import WholeFrame
from recording.encoders import Encoder, from_open_clip, from_transformers
from saliency import methods, normalise_maps, relevance_maps, resize_maps
from siglip import SigLIP
from text_saliency import WordRelevance, text_relevance

Images = Float[Tensor, "image 3 row column"]
Frame = Callable[[PIL.Image.Image], PIL.Image.Image | Tensor]
Targets = Float[Tensor, "*image target feature"]


class Explainer:
    """A model with its preprocessing, its texts and its methods.

    model: what `load` takes; a name of a hub whose model is not of ours ("open_clip:MODEL/TAG",
        "hf:OWNER/NAME"), which is then explained as its library makes it; or an `Encoder` that
        encodes texts and prepares pictures.
    name: what figures and tables call it; needed for an `Encoder`.
    """

    def __init__(self, model: str | Encoder, name: str = ""):
        if isinstance(model, Encoder):
            require_whole(model, name)
            self.network, self.encoder = model.model, model
        else:
            self.network, self.encoder = loaded(model)
        self.name = name or shown_name(model)
        self.side = side_of(self.encoder.example())
        table = methods(self.encoder)
        self.methods = list(table)  # the first is the default
        self.kind = "ResNet" if "GradCAM" in table else "ViT"
        self.device = self.encoder.weight.device
        self.preprocess, self.pixels = self.encoder.preprocess, self.encoder.pixels

    def method(self, name: str | None) -> str:
        """The name of a method, by default the default; ValueError for one that there is not."""
        if name is not None and name not in self.methods:
            raise ValueError(
                f"{self.name} is a {self.kind} and has no method {name!r}: it takes "
                f"{', '.join(self.methods)}"
            )
        return name or self.methods[0]

    def frame(self, crop: bool = False) -> Frame:
        """What makes of an upright RGB picture what is explained: by default all of it, where the
        network takes other shapes than its square; with `crop`, or otherwise, what the model's own
        preprocessing leaves. It returns a picture, or for models that are not of ours a tensor,
        and can be sent to other processes.
        """
        visual = self.encoder.model
        if not self.encoder.runs(VisionTransformer, ModifiedResNet):
            return self.preprocess
        if crop or self.pixels.resize_mode != "shortest":
            return transforms.Compose(self.pixels.square(visual.input_resolution))
        stride = getattr(visual, "patch_size", None) or visual.stride
        return WholeFrame(visual.input_resolution, stride, self.pixels.interpolation)

    def images(self, framed: Sequence[np.ndarray]) -> Images:
        """Pictures out of a `frame`, of one shape, as the model takes them: bytes [row, column, 3],
        or floats as they are.
        """
        images = torch.from_numpy(np.stack(framed)).to(self.device)
        if images.dtype != torch.uint8:
            return images
        return normalise_pixels(images.permute(0, 3, 1, 2).float() / 255, self.pixels)

    def read(self, *paths: str | Path) -> Images:
        """Pictures as the model takes them."""
        if not paths:
            raise ValueError("there must be at least one picture to read")
        return torch.stack([self.preprocess(open_image(path)) for path in paths]).to(self.device)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "target feature"]:
        """Unit features of texts."""
        return target_directions(self.encoder.encode_texts(prompts).float())

    @torch.no_grad()
    def pictures(self, images: Images) -> Float[Tensor, "image feature"]:
        """Unit features of pictures."""
        self.encoder.require_images(images)
        return target_directions(self.encoder.encode(self.encoder.placed(images)).float())

    def scores(self, images: Images, targets: Targets) -> Float[Tensor, "image target"]:
        """100 times the cosine of every image with its targets."""
        features = self.pictures(images).unsqueeze(-2)
        return LOGIT_SCALE * (features * target_directions(targets, features.shape[-1])).sum(-1)

    def maps(
        self,
        images: Images,
        targets: Targets,
        method: str | None = None,
        negative: bool = False,
        against: Targets | None = None,
    ) -> Float[Tensor, "image target row column"]:
        """Raw relevance at the size of the images."""
        maps = relevance_maps(
            self.encoder, images, targets, method, negative=negative, against=against
        )
        return resize_maps(maps, images.shape[-2:])

    def heat(
        self, images: Images, targets: Targets, method: str | None = None, negative: bool = False
    ) -> Float[np.ndarray, "image target row column"]:
        """Relevance in [0, 1] at the size of the images, each map scaled by itself."""
        return normalise_maps(self.maps(images, targets, method, negative)).cpu().numpy()

    def words(
        self, texts: Sequence[str], targets: Targets, method: str | None = None
    ) -> list[WordRelevance]:
        """Relevance of each word of each text, see `text_saliency.py`."""
        reads = self.network if isinstance(self.network, CLIP | SigLIP) else self.encoder
        return text_relevance(reads, texts, targets, method)


def digest_of(network: nn.Module) -> str:
    """Of all weights, with their names."""
    digest = sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def loaded(name: str) -> tuple[nn.Module, Encoder]:
    """The network that a name stands for, and what is called of it."""
    try:
        clip, preprocess = load(name)
    except AnotherNetwork:
        if not name.startswith((OPEN_CLIP, HUB)):
            raise
        return of_hub(name)
    visual = clip.visual
    encoder = Encoder(
        visual,
        visual.__call__,
        lambda texts: clip.encode_text(tokenize(texts)),
        preprocess,
        visual.preprocessing,
    )
    return clip, encoder


def of_hub(name: str) -> tuple[nn.Module, Encoder]:
    """A model that is not of ours, as its library makes it."""
    if name.startswith(OPEN_CLIP):
        open_clip = package("open_clip", "open_clip_torch", name)
        kind, tag = name.removeprefix(OPEN_CLIP).rsplit("/", 1)
        model, preprocess = open_clip.create_model_from_pretrained(kind, pretrained=tag)
        model = model.to(DEFAULT_DEVICE).eval()
        return model, from_open_clip(model, preprocess, open_clip.get_tokenizer(kind))
    transformers = package("transformers", "transformers", name)
    repository = name.removeprefix(HUB)
    model = transformers.AutoModel.from_pretrained(repository).to(DEFAULT_DEVICE).eval()
    processor = transformers.AutoProcessor.from_pretrained(repository)
    return model, from_transformers(model, processor)


def require_whole(encoder: Encoder, name: str) -> None:
    missing = [one for one in ("encode_texts", "preprocess") if getattr(encoder, one) is None]
    if missing or not name:
        raise ValueError(
            f"to explain pictures by an Encoder, give {', '.join(missing or ['its name'])} "
            "(from_open_clip(model, preprocess, tokenizer), from_transformers(model, processor))"
        )


def side_of(images: Tensor | Mapping[str, Tensor]) -> int:
    """The shorter side of pictures as a model takes them."""
    if isinstance(images, Mapping):
        raise ValueError(
            "pictures of this model have grids of their own: explain what its processor returns of "
            "them with relevance_maps"
        )
    return min(images.shape[-2:])


def shown_name(name: str) -> str:
    """What figures, tables and files call the model that `load(name)` gives."""
    return Path(name).stem if Path(name).is_file() else re.sub("[/:]", "-", name)


def explainers(names: Sequence[str]) -> list[Explainer]:
    """Models to be shown beside one another. Raises ValueError if two would have one name."""
    found: dict[str, str] = {}
    for name in names:
        shown = shown_name(name)
        if shown in found:
            raise ValueError(
                f"{found[shown]} and {name} would both be called {shown}: name each model once, "
                "and give files names of their own"
            )
        found[shown] = name
    return [Explainer(name) for name in names]

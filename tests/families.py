"""Models of open_clip, transformers and timm, as these libraries make them, but small.

An architecture of open_clip is the registered one with fewer and narrower layers, fewer pixels and
a text tower that hardly is one. Weights are random, every parameter off its initial value.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import open_clip
import timm
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from timm.models.vitamin import VitCfg, VitConvCfg
from torch import Tensor, nn

SHORT_TEXT = {"context_length": 8, "vocab_size": 100, "width": 64, "heads": 1, "layers": 1}


def architecture(name: str, trunk: Mapping[str, Any] | None = None, **vision: Any) -> nn.Module:
    """An architecture of open_clip; `vision` and (of timm's towers) `trunk` change its image tower.

    Of the text tower only the shape of its answer is left.
    """
    config = open_clip.get_model_config(name)
    config["vision_cfg"] |= vision
    config["text_cfg"] = SHORT_TEXT | {"output_tokens": "multimodal_cfg" in config}
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    if "multimodal_cfg" in config:
        kind, config["multimodal_cfg"] = open_clip.CoCa, SHORT_TEXT
    if config["vision_cfg"].get("timm_proj") == "none" and "embed_dim" in (trunk or {}):
        config["embed_dim"] = trunk["embed_dim"]  # features are as wide as the trunk
    with ExitStack() as stack:
        if trunk:
            smaller = partial(timm.create_model, **trunk)
            stack.enter_context(patch.object(timm, "create_model", smaller))
        return kind(**config)


@torch.no_grad()
def stirred(model: nn.Module) -> nn.Module:
    """In evaluation mode, with scales and biases off their initial values and lively attention."""
    for name, parameter in model.named_parameters():
        if parameter.ndim <= 1:
            parameter += 0.2 * torch.randn_like(parameter)
        elif any(part in name for part in ("qkv", "in_proj", "q_proj", "k_proj", "query", "key")):
            parameter *= 3
    return model.eval()


def of_open_clip(name: str, trunk: Mapping[str, Any] | None = None, **vision: Any) -> Callable:
    return lambda: architecture(name, trunk, **vision)


def of_transformers(kind: str, **vision: Any) -> Callable:
    text = {
        **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "vocab_size": 100, "max_position_embeddings": 16},
        **{"projection_dim": 32, "project_dim": 32, "projection_size": 64},
        **{"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3},
    }
    vision = {
        **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3},
        **{"num_attention_heads": 4, "image_size": 64, "patch_size": 16},
        **vision,
    }

    def build() -> nn.Module:
        model_class = getattr(transformers, f"{kind}Model")
        config = getattr(transformers, f"{kind}Config")(
            vision_config=vision, text_config=text, projection_dim=32
        )
        return model_class(config)

    return build


def of_timm(name: str, **options: Any) -> Callable:
    return partial(timm.create_model, name, **{"num_classes": 0} | TRUNK | options)


def two_pictures(rows: int, columns: int) -> Tensor:
    return torch.randn(2, 3, rows, columns, generator=torch.Generator().manual_seed(2))


def pictures_of_any_shape(patch_size: int = 16) -> Mapping[str, Tensor]:
    """What the processor of a NaFlex model makes of a wide and a tall picture."""
    processor = transformers.Siglip2ImageProcessor(patch_size=patch_size, max_num_patches=16)
    noise = two_pictures(96, 96).mul(60).add(128).clamp(0, 255).byte().movedim(1, -1).numpy()
    pictures = [Image.fromarray(noise[0][:48]), Image.fromarray(noise[1][:, :32])]
    return dict(processor(images=pictures, return_tensors="pt"))


def similar_to_a_text(model: nn.Module, images: Any) -> Tensor:
    """Unit features as the model's own forward makes them, beside those of a text."""
    if isinstance(model, transformers.PreTrainedModel):
        given = images if isinstance(images, Mapping) else {"pixel_values": images}
        words = torch.tensor([[2, 5, 3]])
        return model(**given, input_ids=words, attention_mask=words > 0).image_embeds
    output = model(images)
    if isinstance(output, Mapping):
        return output["image_features"]
    return output[0] if isinstance(output, tuple) else F.normalize(output, dim=-1)


@dataclass(frozen=True)
class Family:
    """A kind of model, and what is known of it.

    build: the model of the library.
    images: as its preprocessing makes them.
    grid: of its patches or cells; of each image.
    readers: from which and up to which token, or query of a pool, the features are read.
    pooling: None of a network that convolves, whose last stage is the module called `stage`.
    """

    build: Callable[[], nn.Module]
    grid: tuple[int, int] | list[tuple[int, int]]
    pooling: str | None = "CLS"
    readers: tuple[int, int | None] = (0, 1)
    size: tuple[int, int] = (64, 64)
    images: Callable[[], Any] | None = None
    stage: str = ""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return stirred(self.build())

    def pictures(self) -> Any:
        return self.images() if self.images else two_pictures(*self.size)


VIT = {"width": 128, "layers": 3, "image_size": 64, "patch_size": 16}
TRUNK = {"depth": 3, "embed_dim": 64, "num_heads": 4, "img_size": 64}
NARROW_STEM = VitCfg(
    embed_dim=(16, 32, 64),
    depths=(1, 1, 1),
    stem_width=16,
    conv_cfg=VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
    head_type="1d",
)

FAMILIES = {
    "ViT-B-32": Family(of_open_clip("ViT-B-32", **VIT), (4, 4)),
    "ViT-B-32-quickgelu": Family(of_open_clip("ViT-B-32-quickgelu", **VIT), (4, 4)),
    "ViT-H-14": Family(of_open_clip("ViT-H-14", **VIT | {"width": 160}), (4, 4)),
    "EVA02-B-16": Family(of_open_clip("EVA02-B-16", TRUNK, image_size=64), (4, 4)),
    "MobileCLIP-B": Family(
        of_open_clip("MobileCLIP-B", {"depth": 2, "img_size": 48}, image_size=48),
        (3, 3),
        size=(48, 48),
    ),
    "ViT-B-16-SigLIP": Family(
        of_open_clip("ViT-B-16-SigLIP", TRUNK, image_size=64), (4, 4), "probe"
    ),
    "ViT-B-16-SigLIP2": Family(
        of_open_clip("ViT-B-16-SigLIP2", TRUNK, image_size=64), (4, 4), "probe"
    ),
    "PE-Core-B-16": Family(of_open_clip("PE-Core-B-16", TRUNK, image_size=64), (4, 4), "probe"),
    "coca_ViT-B-32": Family(of_open_clip("coca_ViT-B-32", **VIT), (4, 4), "probe"),
    "ViT-L-14-CLIPA": Family(of_open_clip("ViT-L-14-CLIPA", **VIT), (4, 4), "average", (1, None)),
    "ViTamin-S": Family(
        of_open_clip("ViTamin-S", TRUNK | {"embed_cfg": NARROW_STEM}, image_size=64),
        *((4, 4), "average", (0, None)),
    ),
    "convnext_base": Family(
        of_open_clip(
            *("convnext_base", {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 48)}), image_size=96
        ),
        *((3, 2), None),
        size=(96, 64),
        stage="visual.trunk.stages.3",
    ),
    "RN50": Family(
        of_open_clip("RN50", layers=[1, 1, 1, 1], width=16, image_size=96),
        *((3, 3), None),
        size=(96, 96),
        stage="visual.layer4",
    ),
    "MobileCLIP-S1": Family(
        of_open_clip(
            "MobileCLIP-S1",
            {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 32, 64)},
            image_size=64,
        ),
        *((2, 2), None),
        stage="visual.trunk.final_conv",
    ),
    "MobileCLIP2-S3": Family(  # attends in its last two stages
        of_open_clip(
            "MobileCLIP2-S3",
            {"layers": (1, 1, 1, 1, 1), "embed_dims": (16, 16, 32, 32, 64)},
            image_size=128,
        ),
        *((2, 2), None),
        size=(128, 128),
        stage="visual.trunk.final_conv",
    ),
    "CLIPModel": Family(of_transformers("CLIP"), (4, 4)),
    "MetaClip2Model": Family(of_transformers("MetaClip2"), (4, 4)),
    "SiglipModel": Family(of_transformers("Siglip"), (4, 4), "probe"),
    "Siglip2Model": Family(
        of_transformers("Siglip2", num_patches=16),
        *([(3, 5), (6, 2)], "probe"),
        images=pictures_of_any_shape,
    ),
    "AltCLIPModel": Family(of_transformers("AltCLIP"), (4, 4)),
    "ChineseCLIPModel": Family(of_transformers("ChineseCLIP"), (4, 4)),
    "timm": Family(of_timm("vit_base_patch16_224", img_size=(64, 96)), (4, 6), size=(64, 96)),
    "timm, registers": Family(of_timm("vit_base_patch14_reg4_dinov2", patch_size=16), (4, 4)),
    "timm, two tokens": Family(
        of_timm("deit_base_distilled_patch16_224"), (4, 4), "average", (0, 2)
    ),
}

"""Small random CLIPs of open_clip and transformers, as those save them."""

import json
from pathlib import Path

import open_clip
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

VOCABULARY = 300
VISION = {"image_size": 32, "layers": 2, "width": 128, "patch_size": 16}
TEXT = {"width": 64, "heads": 2, "layers": 2, "vocab_size": VOCABULARY}


def texts() -> torch.Tensor:
    """Two texts of other lengths, padded with zeros; the end is the last of the vocabulary."""
    tokens = torch.zeros(2, 77, dtype=torch.long)
    tokens[0, :4] = torch.tensor([298, 5, 7, 299])
    tokens[1, :7] = torch.tensor([298, 1, 2, 200, 33, 9, 299])
    return tokens


@torch.no_grad()
def stirred(model: nn.Module) -> nn.Module:
    """Every parameter off its initial value, attention far from uniform, MLPs far from linear."""
    for name, parameter in model.named_parameters():
        if parameter.ndim <= 1:
            parameter += 0.2 * torch.randn_like(parameter)
        elif any(part in name for part in ("in_proj", "q_proj", "k_proj", "c_fc", "fc1")):
            parameter *= 4
    return model.eval()


def open_clip_config(vision=(), text=(), pictures=None, **others) -> dict:
    """An `open_clip_config.json`."""
    model = {
        "embed_dim": 16,
        "vision_cfg": VISION | dict(vision),
        "text_cfg": TEXT | dict(text),
        **others,
    }
    return {"model_cfg": model} | ({"preprocess_cfg": pictures} if pictures else {})


def open_clips(config: dict) -> nn.Module:
    torch.manual_seed(0)
    model = dict(config["model_cfg"])
    kind = open_clip.CustomTextCLIP if model.pop("custom_text", False) else open_clip.CLIP
    return stirred(kind(**model))


def save_open_clips(folder: Path, config: dict | None, network: nn.Module, name: str) -> Path:
    """A folder as open_clip's `save_for_hf` writes it."""
    folder.mkdir(exist_ok=True)
    if config is not None:
        (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = network.state_dict()
    if name.endswith(".safetensors"):
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / name)
    else:
        torch.save(weights, folder / name)
    return folder / name


def transformers_clip(vision=(), text=(), **others) -> transformers.CLIPModel:
    torch.manual_seed(0)
    vision = {
        **{"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "image_size": 32, "patch_size": 16},
        **dict(vision),
    }
    text = {
        **{"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "vocab_size": VOCABULARY},
        **{"bos_token_id": 298, "eos_token_id": 299, "pad_token_id": 0},
        **dict(text),
    }
    config = transformers.CLIPConfig(
        vision_config=vision, text_config=text, projection_dim=16, **others
    )
    return stirred(transformers.CLIPModel(config))


@torch.no_grad()
def features(model: nn.Module, images: torch.Tensor, tokens: torch.Tensor) -> tuple:
    """Of images and texts, as the library computes them."""
    if isinstance(model, transformers.CLIPModel):
        return (
            model.get_image_features(pixel_values=images).pooler_output,
            model.get_text_features(input_ids=tokens).pooler_output,
        )
    return model.encode_image(images), model.encode_text(tokens)


def assert_same_features(model: nn.Module, reference: nn.Module, side: int = 32) -> None:
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    pairs = zip(features(model, images, texts()), features(reference, images, texts()), strict=True)
    for ours, theirs in pairs:
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()

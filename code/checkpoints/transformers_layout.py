"""CLIPModel of transformers: its names, and how its tensors become those of OpenAI's layout."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from checkpoints.errors import CheckpointError

FIRST = "vision_model.embeddings.patch_embedding.weight"
EVERY_CLIP_HAS = (
    FIRST,
    "vision_model.embeddings.class_embedding",
    "vision_model.encoder.layers.0.self_attn.q_proj.weight",
    "visual_projection.weight",
    "text_model.embeddings.token_embedding.weight",
    "text_model.encoder.layers.0.self_attn.q_proj.weight",
    "text_model.final_layer_norm.weight",
    "text_projection.weight",
    "logit_scale",
)
NAMES = {  # transformers' beginnings, and ours; the former includes a misspelling
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.": "visual.conv1.",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",
    "vision_model.post_layernorm.": "visual.ln_post.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding.": "token_embedding.",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.": "ln_final.",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "text_projection.weight": "text_projection",
}
OF_BLOCKS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
PROJECTIONS = ("visual_projection.weight", "text_projection.weight")
QUERY = re.compile(r"(.+)\.self_attn\.q_proj\.(weight|bias)")


def is_transformers(names: Mapping[str, object]) -> bool:
    return FIRST in names


def in_openais_layout(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Weights of a CLIPModel under OpenAI's names; what has no place there keeps its name.

    Queries, keys and values are one projection there, and the last projections are transposed.
    """
    weights = {
        name: tensor.T.contiguous() if name in PROJECTIONS and tensor.ndim == 2 else tensor
        for name, tensor in weights.items()
        if not name.endswith(".embeddings.position_ids")  # 0, 1, 2, ...: once saved too
    }
    for name in list(weights):
        if match := QUERY.fullmatch(name):
            block, kind = match.groups()
            parts = [f"{block}.self_attn.{part}_proj.{kind}" for part in "qkv"]
            shapes = {weights[part].shape if part in weights else None for part in parts}
            if shapes == {weights[name].shape}:
                weights[f"{block}.attn.in_proj_{kind}"] = torch.cat([weights.pop(p) for p in parts])
    renamed = {_renamed(name): tensor for name, tensor in weights.items()}
    if len(renamed) < len(weights):
        raise CheckpointError(f"{path} holds tensors twice, under transformers' names and OpenAI's")
    return renamed


def _renamed(name: str) -> str:
    for theirs, ours in NAMES.items():
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            block = re.fullmatch(r"(.*resblocks\.\d+\.)(.+)\.(weight|bias)", name)
            if block and block[2] in OF_BLOCKS:
                return f"{block[1]}{OF_BLOCKS[block[2]]}.{block[3]}"
            return name
    return name

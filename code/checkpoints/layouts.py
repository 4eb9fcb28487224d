"""The layouts of state dicts: what they are wrapped in, and how their tensors are called."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoints import transformers_layout
from checkpoints.errors import AnotherNetwork, CheckpointError
from checkpoints.formats import EXTRAS
from checkpoints.tensor_pickles import Stored, kind
from model import some

EVERY_CLIP_HAS = (
    "visual.conv1.weight",
    "token_embedding.weight",
    "positional_embedding",
    "transformer.resblocks.0.attn.in_proj_weight",
    "ln_final.weight",
    "text_projection",
    "logit_scale",
)
IMAGE_PROJECTIONS = ("visual.proj", "visual.attnpool.c_proj.weight")  # of a ViT, of a ResNet

# What training scripts save a state dict under, beside the epoch and the optimiser. Weights as they
# were trained come before their moving average.
WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "module", "checkpoint"),
    *("ema", "model_ema", "ema_state_dict", "state_dict_ema"),
)
# What wrappers of modules insert into names: DataParallel, torch.compile, FSDP, checkpointing.
INSERTED = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")

OTHER_LAYOUTS = {  # a part of a name, and what it tells
    "vision_model.": "is in the layout of transformers, but not of its CLIPModel",
    "visual.trunk.": "is in the layout of timm (SigLIP and others), which is not our network's",
    "text.": "is in OpenCLIP's layout of a text tower apart, but not of the classic ones",
}
TEXT = "text."  # a text tower apart has OpenAI's names behind this
REPEATS = 10  # so many times may a file's tensors refer to the same bytes
WHOLE_NUMBERS = ("num_batches_tracked", "position_ids")
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def unwrapped(content: Any) -> Any:
    """The state dict in what a training script saved."""
    for _ in range(3):  # one in the other
        if isinstance(content, Mapping):
            inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
            content = inner[0] if inner else content
    return content


def bare_names(state_dict: Any, path: Path) -> Any:
    """`state_dict` with a CLIP's own names, without what wrappers and outer modules add to them."""
    if not isinstance(state_dict, Mapping):
        return state_dict
    if not all(isinstance(name, str) for name in state_dict):
        raise CheckpointError(f"{path} has names that are no text")
    bare = {
        ".".join(part for part in name.split(".") if part not in INSERTED): value
        for name, value in state_dict.items()
    }
    firsts = (EVERY_CLIP_HAS[0], transformers_layout.FIRST)
    outer = [name.removesuffix(f) for f in firsts for name in bare if name.endswith(f)]
    if len(bare) < len(state_dict) or len(outer) > 1:
        raise CheckpointError(
            f"{path} holds several models ({some(outer)}); save one of them alone"
        )
    if outer in ([], [""]) or any("lora_" in name for name in bare):
        return bare
    beside = [name for name in bare if not name.startswith(outer[0])]
    if beside:
        raise CheckpointError(
            f"{path} holds a CLIP as {outer[0]!r} and beside it {some(beside)}; save the CLIP's "
            "own state_dict()"
        )
    return {name.removeprefix(outer[0]): value for name, value in bare.items()}


def with_its_text_tower(state_dict: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """`state_dict` with the names of a text tower apart, as open_clip has them, as OpenAI's."""
    if f"{TEXT}token_embedding.weight" not in state_dict:
        return state_dict
    joined = {name.removeprefix(TEXT): value for name, value in state_dict.items()}
    if len(joined) < len(state_dict):
        raise CheckpointError(f"{path} holds two text towers; save the model that has one alone")
    return joined


def verify(state_dict: Any, path: Path) -> dict[str, Tensor]:
    """`state_dict` without its extras, or an error that says why it is not a CLIP's."""
    layout = "expected a state dict in the layout of OpenAI's CLIP"
    if not isinstance(state_dict, Mapping) or not state_dict:
        what = "nothing" if state_dict == {} else f"a {kind(state_dict)}"
        raise CheckpointError(f"{path} holds {what}; {layout}")
    others = [name for name, value in state_dict.items() if not isinstance(value, Tensor | Stored)]
    if others:
        raise CheckpointError(f"{path} holds other things than tensors ({some(others)}); {layout}")
    if any("lora_" in name for name in state_dict):
        raise CheckpointError(
            f"{path} is of a LoRA: merge it into its model (merge_and_unload() in peft) and save "
            "that model's state_dict()"
        )
    given, state_dict = state_dict, with_its_text_tower(state_dict, path)
    from_transformers = transformers_layout.is_transformers(state_dict)
    wanted = transformers_layout.EVERY_CLIP_HAS if from_transformers else EVERY_CLIP_HAS
    missing = [name for name in wanted if name not in state_dict]
    if not from_transformers and not any(name in state_dict for name in IMAGE_PROJECTIONS):
        missing.append(" or ".join(IMAGE_PROJECTIONS))
    for part, what in OTHER_LAYOUTS.items():
        if missing and any(f".{part}" in f".{name}" for name in given):
            raise AnotherNetwork(f"{path} {what}: it has no {some(missing)}")
    if missing:
        raise CheckpointError(
            f"{path} is not a CLIP: it has no {', '.join(missing)}; it has "
            f"{some(list(state_dict))}; {layout}"
        )
    return {name: tensor for name, tensor in state_dict.items() if name not in EXTRAS}


def tensors(state_dict: Mapping[str, Tensor | Stored], path: Path) -> dict[str, Tensor]:
    """`state_dict` in memory. CheckpointError if there is anything but finite numbers."""
    lazy = [value for value in state_dict.values() if isinstance(value, Stored)]
    if sum(value.nbytes for value in lazy) > REPEATS * path.stat().st_size:
        raise CheckpointError(
            f"{path} is refused: its tensors take up more than {REPEATS} times its size"
        )
    weights = {}
    for name, value in state_dict.items():
        tensor = value.tensor() if isinstance(value, Stored) else value
        if name == "logit_scale" and tensor.numel() == 1:  # one axis of 1 in some of open_clip's
            tensor = tensor.reshape(())
        weights[name] = tensor
        if tensor.dtype not in FLOATS and not name.endswith(WHOLE_NUMBERS):
            raise CheckpointError(
                f"{path}: {name} holds {tensor.dtype}, not floating-point numbers"
            )
        if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise CheckpointError(f"{path}: the weights {name} hold NaN or infinity")
    return weights

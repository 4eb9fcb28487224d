"""Checkpoints of small random CLIPs, in every format."""

import warnings
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from model import CLIP

TEXT = {
    "context_length": 77,
    "vocab_size": 49408,
    "transformer_width": 64,
    "transformer_heads": 1,
    "transformer_layers": 1,
}
KNOWN = {"activation": "quickgelu", "heads": (1, 1)}  # of `small_vit`
EXTRAS = {
    "input_resolution": torch.tensor(32),
    "context_length": torch.tensor(77),
    "vocab_size": torch.tensor(49408),
}


def small_vit(vocab_size: int = 49408) -> CLIP:
    torch.manual_seed(0)
    return CLIP(16, 32, 2, 64, 16, **TEXT | {"vocab_size": vocab_size}).eval()


def small_resnet() -> CLIP:
    torch.manual_seed(0)
    return CLIP(16, 32, (1, 1, 1, 1), 8, None, **TEXT).eval()


def half(state_dict: dict) -> dict:
    """In half precision but for normalisations, as OpenAI ships them."""
    kept = ("ln_", "bn", "downsample.1")
    return {
        name: value if any(part in name for part in kept) or value.ndim == 0 else value.half()
        for name, value in state_dict.items()
    }


class Tree(nn.Module):
    """A module for every dotted prefix of a state dict, so that it can be scripted."""

    def __init__(self, state_dict: dict, buffers: dict):
        super().__init__()
        self.heads = [1, 2]  # attributes that are no tensors
        self.name = "CLIP"
        for name, value in state_dict.items():
            *path, last = name.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            if value.is_floating_point() and "running" not in last:
                setattr(module, last, nn.Parameter(value))
            else:
                module.register_buffer(last, value)
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def save_scripted(module: nn.Module, path: Path, example: torch.Tensor | None = None) -> dict:
    """Write a TorchScript archive; return what torch.jit.load finds in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; OpenAI's archives remain
        scripted = torch.jit.script(module) if example is None else torch.jit.trace(module, example)
        torch.jit.save(scripted, path)
        return torch.jit.load(path).state_dict()


FORMATS = {
    "torchscript": lambda weights, path: save_scripted(Tree(weights, {}), path),
    "zip": torch.save,
    "legacy": lambda weights, path: torch.save(weights, path, _use_new_zipfile_serialization=False),
    "safetensors": safetensors.torch.save_file,
}

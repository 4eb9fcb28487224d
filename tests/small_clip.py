"""Small random CLIPs in the official layout, for tests.

Every parameter is off its initial value, so that none can be ignored unnoticed, and attention is
far from uniform.
"""

import torch

from model import CLIP

TEXT = {
    "context_length": 77,
    "transformer_width": 128,
    "transformer_heads": 2,
    "transformer_layers": 2,
}


def small_vit(vocab_size: int = 49408) -> CLIP:
    """4 blocks, 2 heads, 8-pixel patches; reads 32 pixels."""
    torch.manual_seed(0)
    return stirred(CLIP(16, 32, 4, 128, 8, vocab_size=vocab_size, **TEXT))


def small_resnet(vocab_size: int = 49408) -> CLIP:
    """One bottleneck a stage; reads 64 pixels, a 2 x 2 grid before the attention pool."""
    torch.manual_seed(0)
    return stirred(CLIP(16, 64, (1, 1, 1, 1), 8, None, vocab_size=vocab_size, **TEXT))


@torch.no_grad()
def stirred(model: CLIP) -> CLIP:
    for name, parameter in model.named_parameters():
        if parameter.ndim <= 1:
            parameter += 0.2 * torch.randn_like(parameter)
        elif name.endswith("in_proj_weight"):
            parameter *= 2
    return model.eval()

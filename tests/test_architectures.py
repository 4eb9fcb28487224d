"""`build_model` deduces every official architecture from names and shapes alone.

The shapes come from open_clip's networks on the meta device: no memory, no weights.
"""

import math

import open_clip
import pytest
import torch

import checkpoints
from clip_ import load, tokenize
from model import build_model

# Radford et al. (2021), tables 19 and 20; vision width is that of the stem for ResNets. Numbers of
# parameters as OpenAI's notebook "Interacting with CLIP" prints them.
OFFICIAL = {
    # name: resolution, vision (layers, width, patch), features, text (width, heads), parameters
    "RN50": (224, ((3, 4, 6, 3), 64, None), 1024, (512, 8), 102_007_137),
    "RN101": (224, ((3, 4, 23, 3), 64, None), 512, (512, 8), 119_688_033),
    "RN50x4": (288, ((4, 6, 10, 6), 80, None), 640, (640, 10), 178_300_601),
    "RN50x16": (384, ((6, 8, 18, 8), 96, None), 768, (768, 12), 290_979_217),
    "RN50x64": (448, ((3, 15, 36, 10), 128, None), 1024, (1024, 16), 623_258_305),
    "ViT-B/32": (224, (12, 768, 32), 512, (512, 8), 151_277_313),
    "ViT-B/16": (224, (12, 768, 16), 512, (512, 8), 149_620_737),
    "ViT-L/14": (224, (24, 1024, 14), 768, (768, 12), 427_616_513),
    "ViT-L/14@336px": (336, (24, 1024, 14), 768, (768, 12), 427_944_193),
}


def open_clips(name: str) -> torch.nn.Module:
    name = name.replace("/", "-").replace("@336px", "-336") + "-quickgelu"
    with torch.device("meta"):
        return open_clip.CLIP(**open_clip.get_model_config(name))


def number_of_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_table_is_of_the_official_models():
    assert list(OFFICIAL) == list(checkpoints.OFFICIAL)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_architectures_are_deduced(name):
    resolution, (layers, width, patch), features, (text_width, text_heads), parameters = OFFICIAL[
        name
    ]
    reference = open_clips(name)
    model = build_model(reference.state_dict())

    assert number_of_parameters(model) == number_of_parameters(reference) == parameters
    assert model.visual.input_resolution == resolution
    assert model.visual.output_dim == features
    assert model.context_length == 77
    assert model.vocab_size == 49408
    assert len(model.transformer.resblocks) == 12
    assert model.text_projection.shape == (text_width, features)
    assert {block.attn.heads for block in model.transformer.resblocks} == {text_heads}
    assert not model.training
    if patch is None:
        stages = [getattr(model.visual, f"layer{stage}") for stage in (1, 2, 3, 4)]
        assert tuple(map(len, stages)) == layers
        assert model.visual.conv3.out_channels == width
        assert model.visual.attnpool.heads == reference.visual.attnpool.num_heads == width // 2
    else:
        blocks = model.visual.transformer.resblocks
        assert len(blocks) == layers
        assert model.visual.conv1.weight.shape == (width, 3, patch, patch)
        assert {block.attn.heads for block in blocks} == {width // 64}
        assert reference.visual.transformer.resblocks[0].attn.num_heads == width // 64


@pytest.mark.parametrize("name", ["RN50", "ViT-B/32"])
def test_the_state_dict_has_the_official_names_and_shapes(name):
    reference = open_clips(name).state_dict()
    ours = build_model(reference).state_dict()
    shapes = {key: value.shape for key, value in ours.items()}
    assert shapes == {key: value.shape for key, value in reference.items()}


@pytest.mark.parametrize("name", checkpoints.embedded_models())
def test_embedded_models_read_224_pixels_and_openais_tokens(name):
    model, _ = load(name, device="cpu")
    assert model.visual.input_resolution == 224
    assert model.dtype == torch.float32
    assert math.isfinite(model.logit_scale.item())
    if not name.startswith("RN"):
        assert model.visual.patch_size == 16
    with torch.no_grad():
        text_features = model.encode_text(tokenize(["a horse", "a sheep"], model.context_length))
    assert text_features.shape == (2, model.visual.output_dim)
    assert text_features.isfinite().all()
    assert checkpoints.embedded_file(name).stat().st_size <= 40e6

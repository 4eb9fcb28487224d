"""The networks compute what open_clip's and transformers' compute from the same weights.

Full size, random weights (every parameter and statistic moved off its initial value, so that none
can be ignored unnoticed), float32 throughout, attention included. transformers has no CLIP with a
ResNet: RN50 is compared with open_clip alone, its text tower included.
"""

import open_clip
import pytest
import torch
import transformers

from clip_ import tokenize
from model import CLIP

TEXTS = ["a horse", "", "a photo of an astronaut beside a rocket, " * 5]
TEXT = {
    "context_length": 77,
    "vocab_size": 49408,
    "transformer_width": 512,
    "transformer_heads": 8,
    "transformer_layers": 12,
}
VISION = {
    "ViT-B-32": {"embed_dim": 512, "vision_layers": 12, "vision_width": 768, "patch": 32},
    "ViT-B-16": {"embed_dim": 512, "vision_layers": 12, "vision_width": 768, "patch": 16},
    "RN50": {"embed_dim": 1024, "vision_layers": (3, 4, 6, 3), "vision_width": 64, "patch": None},
}


@pytest.fixture(scope="module", params=VISION)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model(name, images):
    vision = dict(VISION[name])
    torch.manual_seed(0)
    model = CLIP(vision_patch_size=vision.pop("patch"), image_resolution=224, **vision, **TEXT)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point() and value.ndim <= 1:
                value += 0.1 * torch.rand_like(value)
            if key.endswith("bn3.weight"):  # initially zero, which would hide the whole branch
                value += 0.5
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # statistics of what it sees next, so that signals survive
        model.train().encode_image(images)
    return model.eval()


@pytest.fixture(scope="module")
def tokens():
    return tokenize(TEXTS, truncate=True)


@pytest.fixture(scope="module")
def ours(model, images, tokens):
    with torch.no_grad():
        return model.encode_image(images), model.encode_text(tokens)


def relative_error(result: torch.Tensor, reference: torch.Tensor) -> float:
    assert result.dtype == reference.dtype == torch.float32
    assert result.shape == reference.shape
    return ((result - reference).norm() / reference.norm()).item()


def test_images_and_texts_have_features_of_their_own(ours):
    for features in ours:
        assert features.isfinite().all()
        assert (features[0] - features[1]).norm() > 1e-3 * features.norm()


@torch.no_grad()
def test_features_equal_open_clips(name, model, images, tokens, ours):
    reference = open_clip.create_model(f"{name}-quickgelu", precision="fp32")
    reference.load_state_dict(model.state_dict(), assign=True)
    reference.eval()
    assert relative_error(ours[0], reference.encode_image(images)) < 1e-5
    assert relative_error(ours[1], reference.encode_text(tokens)) < 1e-5


@torch.no_grad()
def test_recorded_attention_gives_the_same_features(model, images, tokens, ours):
    with torch.enable_grad():  # what makes the blocks record
        recorded = model.encode_image(images).detach(), model.encode_text(tokens).detach()
    for result, reference in zip(recorded, ours, strict=True):
        assert relative_error(result, reference) < 1e-5


@torch.no_grad()
def test_features_equal_transformers(name, model, images, tokens, ours):
    if name == "RN50":
        pytest.skip("transformers has no CLIP with a ResNet")
    reference = transformers_clip(VISION[name]["patch"])
    reference.load_state_dict(transformers_layout(model.state_dict()))
    reference.eval()
    assert relative_error(ours[0], reference.get_image_features(images).pooler_output) < 1e-5
    assert relative_error(ours[1], reference.get_text_features(tokens).pooler_output) < 1e-5


def transformers_clip(patch: int) -> transformers.CLIPModel:
    tower = {"hidden_act": "quick_gelu", "num_hidden_layers": 12}
    config = transformers.CLIPConfig(
        text_config={
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_attention_heads": 8,
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            **tower,
        },
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": patch,
            **tower,
        },
        projection_dim=512,
        attn_implementation="eager",
    )
    return transformers.CLIPModel(config).float()


def transformers_layout(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights under transformers' names; projections transposed, q, k and v apart."""
    renamed = {
        "logit_scale": state_dict["logit_scale"],
        "text_projection.weight": state_dict["text_projection"].T,
        "visual_projection.weight": state_dict["visual.proj"].T,
    }
    for name, value in state_dict.items():
        name = name.replace("visual.", "vision_model.")
        if not name.startswith("vision_model."):
            name = f"text_model.{name}"
        for ours, theirs in TRANSFORMERS_NAMES.items():
            name = name.replace(ours, theirs)
        if ".in_proj_" in name:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                renamed[name.replace("in_proj_", f"{part}_proj.")] = third
        elif not name.endswith(("proj", "projection", "logit_scale")):
            renamed[name] = value
    return renamed


TRANSFORMERS_NAMES = {
    "transformer.resblocks.": "encoder.layers.",
    ".attn.": ".self_attn.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    "text_model.positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text_model.token_embedding.": "text_model.embeddings.token_embedding.",
    "text_model.ln_final.": "text_model.final_layer_norm.",
    "vision_model.class_embedding": "vision_model.embeddings.class_embedding",
    "vision_model.conv1.": "vision_model.embeddings.patch_embedding.",
    "vision_model.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "vision_model.ln_pre.": "vision_model.pre_layrnorm.",
    "vision_model.ln_post.": "vision_model.post_layernorm.",
}

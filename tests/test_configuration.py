"""A checkpoint is computed as the network it was trained in, or refused with what to give.

Its tensors tell neither the activation nor the number of heads. References are open_clip's.
"""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from checkpoint_files import EXTRAS, KNOWN, Tree, save_scripted, small_resnet, small_vit
from checkpoints import SIGLIP, CheckpointError, embedded_models, load_state_dict
from checkpoints.configuration import IMAGE_HEADS, TEXT_HEADS
from clip_ import load, tokenize
from model import CLIP, build_model

CONFIGURATIONS = Path(open_clip.__file__).with_name("model_configs")


def open_clips(
    layers: int, width: int, heads: int, text: tuple[int, int, int], quick_gelu: bool
) -> open_clip.CLIP:
    """A network of open_clip with attention far from uniform, whose MLPs feel their activation."""
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": layers, "width": width, "patch_size": 16}
    vision["head_width"] = width // heads
    names = ("width", "layers", "heads")
    network = open_clip.CLIP(16, vision, dict(zip(names, text, strict=True)), quick_gelu=quick_gelu)
    with torch.no_grad():
        for tower in (network.visual.transformer, network.transformer):
            for block in tower.resblocks:
                block.attn.in_proj_weight *= 6
                block.mlp.c_fc.weight *= 6
    return network.eval()


def assert_same_features(model: CLIP, reference: open_clip.CLIP) -> None:
    images, texts = torch.randn(2, 3, 32, 32), tokenize(["a horse", "two cats on a mat"])
    with torch.no_grad():
        for ours, theirs in (
            (model.encode_image(images), reference.encode_image(images)),
            (model.encode_text(texts), reference.encode_text(texts)),
        ):
            assert (ours - theirs).norm() < 1e-4 * theirs.norm()


@pytest.fixture
def saved(tmp_path):
    def save(network):
        torch.save(network.state_dict(), tmp_path / "mine.pt")
        return tmp_path / "mine.pt"

    return save


@pytest.mark.parametrize("activation", ["gelu", "quickgelu"])
@pytest.mark.parametrize("heads", [(4, 3), (2, 1)])
def test_a_network_is_computed_as_it_is_said_to_be(saved, activation, heads):
    reference = open_clips(2, 160, heads[0], (96, 2, heads[1]), activation == "quickgelu")
    model, _ = load(saved(reference), "cpu", activation=activation, heads=heads)
    assert_same_features(model, reference)
    built = build_model(reference.state_dict(), activation=activation, heads=heads)
    assert_same_features(built, reference)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, r"mine\.pt does not say .*activation='quickgelu'.*'gelu'.* and heads=\(image, text\)"),
        (
            {"activation": "gelu"},
            r"give heads=\(image, text\), with image one of 1, 2, 4, 5, 8, 10",
        ),
        ({"heads": (4, 2)}, r"give activation='quickgelu' \(OpenAI.* or activation='gelu' \(Open"),
        ({"activation": "gelu", "heads": 4}, r"give heads=\(image, text\)"),
    ],
)
def test_what_cannot_be_told_is_asked_for(saved, given, asked):
    path = saved(CLIP(16, 32, 1, 160, 16, 77, 300, 96, 2, 1, vision_heads=4))
    with pytest.raises(CheckpointError, match=asked):
        load(path, "cpu", **given)


def test_a_safetensors_file_may_say_it_itself(tmp_path):
    reference = open_clips(2, 160, 4, (96, 2, 3), False)
    path = tmp_path / "mine.safetensors"
    metadata = {"activation": "gelu", "heads": "4, 3"}
    save_file(reference.state_dict(), path, metadata=metadata)
    assert_same_features(load(path, "cpu")[0], reference)
    with pytest.raises(CheckpointError, match="activation 'quickgelu' contradicts"):
        load(path, "cpu", activation="quickgelu")
    for wrong in ({"activation": "relu"}, {"heads": "4"}, {"heads": "four, three"}):
        save_file(reference.state_dict(), path, metadata=metadata | wrong)
        with pytest.raises(CheckpointError, match=r"mine\.safetensors has metadata .* must be"):
            load(path, "cpu")


def test_of_a_public_tower_only_the_other_tower_is_asked_for(saved):
    path = saved(CLIP(16, 32, 12, 384, 16, 77, 300, 96, 2, 1))
    with pytest.raises(CheckpointError, match=r"heads=\(image, text\)"):
        load(path, "cpu", activation="gelu", heads=6)
    model, _ = load(path, "cpu", activation="gelu", heads=(6, 3))
    assert model.transformer.resblocks[0].attn.heads == 3
    path = saved(CLIP(16, 32, 1, 128, 16, 77, 300, 256, 4, 10))
    with pytest.raises(CheckpointError, match=r"heads=, of the image tower, one of 1, 2, 4, 8\."):
        load(path, "cpu", activation="gelu")
    model, _ = load(path, "cpu", activation="gelu", heads=4)
    assert model.visual.transformer.resblocks[0].attn.heads == 4
    assert model.transformer.resblocks[0].attn.heads == 4  # of text 256 wide, with 10 layers


def test_of_a_resnet_the_heads_are_those_of_its_pool(saved):
    path = saved(small_resnet())
    model, _ = load(path, "cpu", activation="gelu", heads=(8, 1))
    assert model.visual.attnpool.heads == 8
    assert isinstance(model.transformer.resblocks[0].mlp.gelu, torch.nn.GELU)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"activation": "relu"}, r"one of \['quickgelu', 'gelu', 'gelu_tanh'\], got 'relu'"),
        ({"heads": 0}, "heads must be"),
        ({"heads": (4, 2, 2)}, "heads must be"),
        ({"heads": "12"}, "heads must be"),
        ({"activation": "gelu", "heads": (3, 2)}, r"image tower is 160 wide, which 3 heads do not"),
        ({"activation": "gelu", "heads": (4, 5)}, r"text tower is 96 wide, which 5 heads do not"),
    ],
)
def test_values_that_no_network_has_are_refused(saved, given, message):
    path = saved(CLIP(16, 32, 1, 160, 16, 77, 300, 96, 2, 1, vision_heads=4))
    with pytest.raises(ValueError, match=message):
        load(path, "cpu", **given)


def test_heads_64_wide_are_the_convention_of_build_model_only_where_they_fit():
    weights = CLIP(16, 32, 1, 160, 16, 77, 300, 96, 2, 1, vision_heads=4).state_dict()
    with pytest.raises(ValueError, match=r"image tower is 160 wide, which heads 64 wide do not"):
        build_model(weights, heads=(None, 3))
    with pytest.raises(ValueError, match=r"text tower is 96 wide, which heads 64 wide do not"):
        build_model(weights, heads=4)


def test_the_heads_of_public_towers_are_those_of_open_clips_configurations():
    image, text = {}, {}
    for path in CONFIGURATIONS.glob("*.json"):
        whole = json.loads(path.read_text())
        vision, words = whole["vision_cfg"], whole["text_cfg"]
        other = {"timm_model_name", "hf_model_name", "no_ln_pre", "attentional_pool", "act_kwargs"}
        if other & {*vision, *words} or "multimodal_cfg" in whole or whole.get("custom_text"):
            continue
        if isinstance(vision["layers"], int):
            heads = vision["width"] // vision.get("head_width", 64)
            image.setdefault((vision["width"], vision["layers"]), set()).add(heads)
        else:
            key = vision["width"], tuple(vision["layers"])
            image.setdefault(key, set()).add(vision["width"] * 32 // 64)
        text.setdefault((words["width"], words["layers"]), set()).add(words["heads"])
    assert {key: {heads} for key, heads in IMAGE_HEADS.items()} == image
    assert {key: {heads} for key, heads in TEXT_HEADS.items()} == text


# What is known


@pytest.mark.parametrize("name", [name for name in embedded_models() if name != SIGLIP])
def test_weights_of_an_embedded_models_shapes_are_computed_as_it_is(tmp_path, name):
    path = tmp_path / "finetuned.pt"
    torch.save(load_state_dict(name), path)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = load(name, "cpu")[0].encode_image(images)
        assert torch.equal(load(path, "cpu")[0].encode_image(images), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"activation": "gelu"}, "activation 'gelu' contradicts what is known.*'quickgelu'"),
        ({"heads": 1}, "image_heads 1 contradicts"),
        ({"heads": (4, 1)}, "_heads . contradicts"),
    ],
)
def test_what_contradicts_the_known_is_refused(given, message):
    with pytest.raises(CheckpointError, match=message):
        load("ViT-emoji", "cpu", **given)


def test_what_contradicts_the_known_is_refused_before_a_download(tmp_path):
    with pytest.raises(CheckpointError, match="contradicts what is known of the model"):
        load("ViT-L/14", "cpu", download_root=tmp_path, activation="gelu")
    assert list(tmp_path.iterdir()) == []


def test_what_repeats_the_known_is_taken():
    model, _ = load("ViT-emoji", "cpu")
    heads = [
        tower.resblocks[0].attn.heads for tower in (model.visual.transformer, model.transformer)
    ]
    load("ViT-emoji", "cpu", activation="quickgelu", heads=tuple(heads))


def test_heads_of_a_public_tower_cannot_be_given_otherwise(saved):
    path = saved(CLIP(16, 32, 12, 384, 16, 77, 300, 256, 4, 10))
    with pytest.raises(CheckpointError, match=r"image_heads 4 contradicts what is known.*6"):
        load(path, "cpu", activation="gelu", heads=4)


def test_an_archive_as_openai_ships_them_is_known(tmp_path):
    save_scripted(Tree(small_vit(300).state_dict(), EXTRAS), tmp_path / "clip.pt")
    model, _ = load(tmp_path / "clip.pt", "cpu")
    assert model.visual.transformer.resblocks[0].attn.heads == KNOWN["heads"][0]


def test_an_archive_of_another_network_is_not(tmp_path):
    network = open_clips(1, 64, 1, (64, 1, 1), quick_gelu=False)
    for name, value in EXTRAS.items():
        vars(network).pop(name, None)
        network.register_buffer(name, value)
    example = torch.randn(1, 3, 32, 32), tokenize("a horse")
    save_scripted(network, tmp_path / "traced.pt", example)
    with pytest.raises(CheckpointError, match="activation="):
        load(tmp_path / "traced.pt", "cpu", heads=(1, 1))
    model, _ = load(tmp_path / "traced.pt", "cpu", activation="gelu", heads=(1, 1))
    assert_same_features(model, network)


def test_a_vocabulary_beyond_openais_is_refused_because_no_token_is_known_to_end_a_text(saved):
    path = saved(CLIP(16, 32, 1, 64, 16, 77, 49500, 16, 1, 1))
    with pytest.raises(CheckpointError, match=r"49,500 tokens .* which token ends a text"):
        load(path, "cpu", activation="gelu", heads=(1, 1))


def test_what_does_not_fit_is_told_before_anything_is_asked_for(saved, tmp_path):
    weights = small_vit(300).state_dict()
    weights["visual.transformer.resblocks.0.mlp.c_fc.weight"] = torch.zeros(280, 64)
    torch.save(weights, tmp_path / "mine.pt")
    with pytest.raises(
        CheckpointError, match=r"mine\.pt.*c_fc\.weight \[280, 64\] instead of \[256"
    ):
        load(tmp_path / "mine.pt", "cpu")

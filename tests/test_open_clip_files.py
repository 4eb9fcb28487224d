"""Files of open_clip are computed as open_clip does, by the configuration beside them, or refused.

References are open_clip's networks and transforms.
"""

import json

import open_clip
import pytest
import torch

from checkpoints import CheckpointError
from checkpoints.claims import open_clips as open_clips_claims
from checkpoints.json_files import Section
from clip_ import load
from model import architecture
from other_libraries import assert_same_features, open_clip_config, open_clips, save_open_clips

NETWORKS = {
    "gelu": {},
    "quickgelu": {"quick_gelu": True},
    "heads 80 wide, as H": {"vision": {"width": 160, "head_width": 80}},
    "other MLPs, as g and bigG": {
        "vision": {"mlp_ratio": 4.3637},
        "text": {"mlp_ratio": 3.0, "heads": 1},
    },
    "tanh": {
        "vision": {"act_kwargs": {"approximate": "tanh"}},
        "text": {"act_kwargs": {"approximate": "tanh"}},
    },
    "short context": {"text": {"context_length": 8}},
    "text tower apart": {"custom_text": True},
    "logit scale with an axis": {"nonscalar_logit_scale": True},
    "resnet": {"vision": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32}},
}
NAMES = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


def reference_on_short_texts(network):
    """open_clip adds all its positions to a text, which must be as long."""
    length = network.state_dict().get("positional_embedding", torch.empty(77)).shape[0]
    encode = network.encode_text
    network.encode_text = lambda text: encode(text[:, :length])
    return network


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_folder_is_computed_as_its_configuration_says(tmp_path, kind, name):
    config = open_clip_config(**NETWORKS[kind])
    network = open_clips(config)
    path = save_open_clips(tmp_path, config, network, name)
    for given in (tmp_path, path):
        model, _ = load(given, "cpu")
        assert_same_features(model, reference_on_short_texts(network))


def test_a_checkpoint_of_training_is_read_beside_its_configuration(tmp_path):
    config = open_clip_config()
    network = open_clips(config)
    path = save_open_clips(tmp_path, config, network, "epoch_1.pt")
    weights = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": weights}, path)
    assert_same_features(load(path, "cpu")[0], network)


# Silent cases: each of these would be computed as another network


def without_configuration(tmp_path, **options):
    network = open_clips(open_clip_config(**options))
    return save_open_clips(tmp_path, None, network, "mine.pt")


def test_a_gelu_file_alone_is_asked_for_its_activation(tmp_path):
    with pytest.raises(CheckpointError, match=r"activation='quickgelu'.*or activation='gelu'"):
        load(without_configuration(tmp_path), "cpu", heads=(2, 2))


def test_a_file_with_heads_80_wide_alone_is_asked_for_them(tmp_path):
    path = without_configuration(tmp_path, vision={"width": 160, "head_width": 80})
    with pytest.raises(CheckpointError, match=r"give heads=\(image, text\)"):
        load(path, "cpu", activation="gelu")


def test_mlps_of_any_width_are_told_by_the_tensors(tmp_path):
    options = NETWORKS["other MLPs, as g and bigG"]
    path = without_configuration(tmp_path, **options)
    model, _ = load(path, "cpu", activation="gelu", heads=(2, 1))
    assert_same_features(model, open_clips(open_clip_config(**options)))


def test_tanh_gelu_can_be_given(tmp_path):
    options = NETWORKS["tanh"]
    path = without_configuration(tmp_path, **options)
    model, _ = load(path, "cpu", activation="gelu_tanh", heads=(2, 2))
    assert_same_features(model, open_clips(open_clip_config(**options)))


@pytest.mark.parametrize(
    ("part", "setting", "said"),
    [
        ("vision_cfg", {"width": 64}, "vision_width 64, and the weights 128"),
        ("vision_cfg", {"image_size": 48}, "image_resolution 48, and the weights 32"),
        ("vision_cfg", {"layers": 3}, "vision_layers 3, and the weights 2"),
        ("vision_cfg", {"layers": [1, 1, 1, 1]}, r"vision_layers \(1, 1, 1, 1\), and the weights"),
        ("vision_cfg", {"patch_size": 8}, "vision_patch_size 8"),
        ("vision_cfg", {"mlp_ratio": 2}, "vision_mlp_width 256, and the weights 512"),
        ("text_cfg", {"mlp_ratio": 2}, "transformer_mlp_width 128, and the weights 256"),
        ("text_cfg", {"context_length": 64}, "context_length 64, and the weights 77"),
        ("text_cfg", {"vocab_size": 49408}, "vocab_size 49408, and the weights 300"),
    ],
)
def test_a_file_beside_a_configuration_that_is_not_its_own_is_refused(
    tmp_path, part, setting, said
):
    config = open_clip_config()
    network = open_clips(config)
    config["model_cfg"][part] |= setting
    path = save_open_clips(tmp_path, config, network, "mine.pt")
    message = rf"mine\.pt is not the model that .*open_clip_config\.json is of.*{said}"
    with pytest.raises(CheckpointError, match=message):
        load(path, "cpu", activation="gelu", heads=(2, 2))


def test_what_is_given_may_not_contradict_the_configuration(tmp_path):
    config = open_clip_config(pictures={"mean": [0.5] * 3, "resize_mode": "squash"})
    save_open_clips(tmp_path, config, open_clips(config), NAMES[0])
    for given in (
        {"activation": "quickgelu"},
        {"heads": 4},
        {"mean": (0.4, 0.4, 0.4)},
        {"resize_mode": "longest"},
    ):
        with pytest.raises(CheckpointError, match="contradicts what is known of the model"):
            load(tmp_path, "cpu", **given)
    load(tmp_path, "cpu", activation="gelu", heads=(2, 2), mean=(0.5, 0.5, 0.5))


def test_heads_of_a_configuration_that_do_not_divide_are_refused(tmp_path):
    config = open_clip_config()
    network = open_clips(config)
    config["model_cfg"]["vision_cfg"]["head_width"] = 40  # 3 heads of 128
    save_open_clips(tmp_path, config, network, NAMES[0])
    with pytest.raises(CheckpointError, match="image tower is 128 wide, which 3 heads do not"):
        load(tmp_path, "cpu")


@pytest.mark.parametrize(
    ("part", "setting", "named"),
    [
        ("vision_cfg", {"no_ln_pre": True}, "no_ln_pre"),
        ("vision_cfg", {"ls_init_value": 0.0}, "layer scale"),
        ("vision_cfg", {"final_ln_after_pool": True}, "final_ln_after_pool"),
        ("vision_cfg", {"attentional_pool": True}, "attentional_pool"),
        ("vision_cfg", {"pool_type": "avg"}, "pool_type is 'avg'"),
        ("vision_cfg", {"norm_kwargs": {"eps": 1e-6}}, "other normalisations"),
        ("vision_cfg", {"qk_norm": True}, "qk_norm"),
        ("vision_cfg", {"timm_model_name": "vit_base"}, "an image tower of timm"),
        ("vision_cfg", {"rotary": True}, "'rotary', which is not known"),
        ("vision_cfg", {"act_kwargs": {"approximate": "tanh"}}, "for both towers"),
        ("text_cfg", {"pool_type": "last"}, "pool_type is 'last'"),
        ("text_cfg", {"no_causal_mask": True}, "no_causal_mask"),
        ("text_cfg", {"embed_cls": True}, "a class token of texts"),
        ("text_cfg", {"proj_bias": True}, "proj_bias"),
        ("text_cfg", {"hf_model_name": "roberta"}, "a text tower of transformers"),
        ("text_cfg", {"hf_tokenizer_name": "bert"}, "another tokenizer"),
        (None, {"multimodal_cfg": {"width": 8}}, "a decoder"),
        (None, {"init_logit_bias": -10}, "a bias of logits"),
    ],
)
def test_what_our_network_has_not_is_refused_by_name_with_what_to_do(
    tmp_path, part, setting, named
):
    config = open_clip_config()
    network = open_clips(config)
    model = config["model_cfg"]
    (model[part] if part else model).update(setting)
    save_open_clips(tmp_path, config, network, NAMES[0])
    with pytest.raises(CheckpointError, match=named) as error:
        load(tmp_path, "cpu")
    assert "relevance_maps" in str(error.value)


@pytest.mark.parametrize(
    ("part", "setting", "said"),
    [
        ("vision_cfg", {"width": "128"}, "width must be a whole number from 1; it is '128'"),
        ("vision_cfg", {"head_width": 0}, "head_width must be a whole number from 1; it is 0"),
        ("vision_cfg", {"mlp_ratio": -4}, "mlp_ratio must be a number above 0"),
        ("vision_cfg", {"image_size": [32, 64]}, "image_size must be the side of a square"),
        ("text_cfg", {"heads": True}, "heads must be a whole number from 1; it is True"),
        (None, {"quick_gelu": "no"}, "quick_gelu must be true or false"),
        (None, {"vision_cfg": 3}, "vision_cfg is 3, and not an object"),
    ],
)
def test_values_of_the_wrong_kind_are_refused_by_name(tmp_path, part, setting, said):
    config = open_clip_config()
    network = open_clips(config)
    model = config["model_cfg"]
    (model[part] if part else model).update(setting)
    save_open_clips(tmp_path, config, network, NAMES[0])
    with pytest.raises(CheckpointError, match=rf"open_clip_config\.json.*{said}"):
        load(tmp_path, "cpu")


JSON_BOMBS = {
    "large": " " * 2**20 + "{}",
    "deep": "[" * 100_000,
    "deep and whole": '{"model_cfg": ' + "[" * 50 + "]" * 50 + "}",
    "no object": "[1]",
    "cut off": '{"model_cfg": ',
    "long number": f'{{"model_cfg": {"1" * 10_000}}}',
    "not text": "\udcff\udcfe",
}


@pytest.mark.parametrize("kind", JSON_BOMBS)
def test_a_huge_deep_or_damaged_configuration_is_refused_by_its_name(tmp_path, kind):
    save_open_clips(tmp_path, None, open_clips(open_clip_config()), NAMES[0])
    content = JSON_BOMBS[kind].encode(errors="surrogateescape")
    (tmp_path / "open_clip_config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"open_clip_config\.json"):
        load(tmp_path, "cpu")


def test_a_configuration_of_something_else_is_not_of_this_file(tmp_path):
    path = without_configuration(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"learning_rate": 1}))
    with pytest.raises(CheckpointError, match="give activation="):
        load(path, "cpu")
    load(path, "cpu", activation="gelu", heads=(2, 2))


# Every configuration that open_clip has


@pytest.mark.parametrize("name", open_clip.list_models())
def test_configurations_of_the_classic_layout_are_read_and_others_refused(name):
    """What is said of shapes and heads is what open_clip's networks have."""
    config = open_clip.get_model_config(name)
    foreign = {"timm_model_name", "hf_model_name", "hf_tokenizer_name", "ls_init_value"}
    settings = {*config["vision_cfg"], *config["text_cfg"], *config}
    if settings & (foreign | {"multimodal_cfg"}):
        with pytest.raises(CheckpointError, match="relevance_maps"):
            open_clips_claims(Section(config, name))
        return
    found = open_clips_claims(Section(config, name))
    assert found.activation == ("quickgelu" if "quickgelu" in name else "gelu")
    for part in ("vision_cfg", "text_cfg"):  # of more layers the shapes are the same
        if isinstance(config[part]["layers"], int):
            found.shape[f"{'vision' if part == 'vision_cfg' else 'transformer'}_layers"] = 1
            config[part]["layers"] = 1
    with torch.device("meta"):
        network = open_clip.CLIP(**config)
    found.require(architecture(network.state_dict()), name)
    image = getattr(network.visual, "attnpool", None)
    image = image or network.visual.transformer.resblocks[0].attn
    assert found.heads == (image.num_heads, network.transformer.resblocks[0].attn.num_heads)

"""CLIPModels of transformers are computed as it does, or refused; pictures as it does too.

References are transformers' networks and processors.
"""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from checkpoints import CheckpointError
from clip_ import load
from other_libraries import assert_same_features, open_clip_config, texts, transformers_clip

NETWORKS = {
    "quickgelu": {},
    "gelu": {"vision": {"hidden_act": "gelu"}, "text": {"hidden_act": "gelu"}},
    "tanh": {"vision": {"hidden_act": "gelu_new"}, "text": {"hidden_act": "gelu_pytorch_tanh"}},
    "other heads": {"vision": {"num_attention_heads": 4}, "text": {"num_attention_heads": 1}},
    "other MLPs": {"vision": {"intermediate_size": 200}, "text": {"intermediate_size": 100}},
    "old end of text": {"text": {"eos_token_id": 2}},
    "short context": {"text": {"max_position_embeddings": 16}},
}


@pytest.fixture(scope="module")
def clip():
    return transformers_clip()


@pytest.fixture
def folder(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    return tmp_path


def changed(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def on_short_texts(network):
    length = network.config.text_config.max_position_embeddings
    encode = network.get_text_features
    network.get_text_features = lambda input_ids: encode(input_ids=input_ids[:, :length])
    return network


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_folder_is_computed_as_its_configuration_says(tmp_path, kind):
    network = transformers_clip(**NETWORKS[kind])
    network.save_pretrained(tmp_path)
    reference = on_short_texts(network)
    assert_same_features(load(tmp_path, "cpu")[0], reference)
    assert_same_features(load(tmp_path / "model.safetensors", "cpu")[0], reference)


def test_a_pytorch_model_is_read_without_its_position_ids(folder, clip):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    weights["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    torch.save(weights, folder / "pytorch_model.bin")
    assert_same_features(load(folder, "cpu")[0], clip)


def test_padding_of_any_kind_has_no_effect(folder):
    """transformers' tokenizer pads with the end of text, open_clip's with zeros."""
    model, _ = load(folder, "cpu")
    padded = texts()
    with torch.no_grad():
        expected = model.encode_text(padded)
        padded[0, 4:] = 299
        padded[1, 7:] = 17
        assert torch.equal(model.encode_text(padded), expected)


def test_a_checkpoint_of_training_is_read_beside_its_configuration(folder, clip):
    weights = {f"model.clip.{name}": value for name, value in clip.state_dict().items()}
    path = folder / "last.ckpt"
    torch.save({"pytorch-lightning_version": "2.5", "state_dict": weights}, path)
    assert_same_features(load(path, "cpu")[0], clip)


def test_an_old_configuration_has_its_towers_twice(folder, clip):
    """The one under `..._dict` counts, and what it leaves out has transformers' defaults."""

    def twice(config):
        for name in ("text_config", "vision_config"):
            config[f"{name}_dict"] = config[name]
            config[name] = {"hidden_size": 4, "num_attention_heads": 4}

    changed(folder / "config.json", twice)
    assert_same_features(load(folder, "cpu")[0], clip)


def test_where_both_libraries_left_a_configuration_the_layouts_own_counts(folder, clip):
    (folder / "open_clip_config.json").write_text(json.dumps(open_clip_config(embed_dim=99)))
    assert_same_features(load(folder, "cpu")[0], clip)


@pytest.mark.parametrize("sizes", [(32, 64, 96), (128, 128)])
def test_queries_keys_and_values_are_joined_only_if_they_are_alike(folder, sizes):
    """In sum they may fit: 32 + 64 + 96 is three times 64."""
    weights = load_file(folder / "model.safetensors")
    block = "text_model.encoder.layers.1.self_attn."
    for part in "qkv":
        del weights[f"{block}{part}_proj.weight"]
    for part, size in zip("qkv", sizes, strict=False):
        weights[f"{block}{part}_proj.weight"] = torch.ones(size, 64)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"it has no transformer\.resblocks\.1\.attn\.in_proj_w"
    ):
        load(folder, "cpu")


def test_tensors_of_both_layouts_in_one_file_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"visual.proj": torch.ones(128, 16)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds tensors twice"):
        load(folder, "cpu")


def test_what_was_loaded_can_be_saved(folder, tmp_path):
    model, _ = load(folder, "cpu")
    save_file(model.state_dict(), tmp_path / "again.safetensors")
    again, _ = load(tmp_path / "again.safetensors", "cpu")
    assert_same_features(again, model)


# Shards


@pytest.fixture
def sharded(clip, tmp_path):
    clip.save_pretrained(tmp_path, max_shard_size="300KB")
    assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 2
    return tmp_path


def test_shards_are_read_where_their_index_says(sharded, clip):
    for given in (sharded, sharded / "model.safetensors.index.json"):
        assert_same_features(load(given, "cpu")[0], clip)


def test_a_shard_that_is_missing_is_named(sharded):
    shard = sorted(sharded.glob("*-of-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"index\.json names {shard.name}, and there is no"):
        load(sharded, "cpu")


def test_a_shard_with_other_tensors_is_refused(sharded):
    shard = sorted(sharded.glob("*-of-*.safetensors"))[1]
    save_file({"other": torch.ones(2)}, shard)
    with pytest.raises(CheckpointError, match=rf"{shard.name} does not hold the tensors that mod"):
        load(sharded, "cpu")


@pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", 3])
def test_an_index_names_files_beside_it_alone(sharded, place):
    def elsewhere(index):
        index["weight_map"]["logit_scale"] = place

    changed(sharded / "model.safetensors.index.json", elsewhere)
    with pytest.raises(CheckpointError, match=r"index\.json names shards that are no files beside"):
        load(sharded, "cpu")


# Silent cases


def test_without_its_configuration_a_file_is_asked_for_activation_and_heads(folder, clip):
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"activation='quickgelu'.* and heads=\(image, text"):
        load(folder, "cpu")
    model, _ = load(folder, "cpu", activation="quickgelu", heads=(2, 2))
    assert_same_features(model, clip)


def test_a_file_beside_a_configuration_that_is_not_its_own_is_refused(folder):
    changed(folder / "config.json", lambda c: c["vision_config"].update(intermediate_size=256))
    with pytest.raises(CheckpointError, match="vision_mlp_width 256, and the weights 512"):
        load(folder, "cpu")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c["text_config"].update(hidden_act="gelu"), "different activations"),
        (lambda c: c["text_config"].update(hidden_act="relu"), "hidden_act must be one of"),
        (lambda c: c["vision_config"].update(layer_norm_eps=1e-6), "layer_norm_eps is 1e-06"),
        (lambda c: c["text_config"].update(eos_token_id=7), "eos_token_id is 7"),
        (lambda c: c["text_config"].update(eos_token_id=[299]), "eos_token_id is"),
        (lambda c: c.update(model_type="siglip"), "a model of type 'siglip', not a CLIP"),
        (lambda c: c["vision_config"].update(num_attention_heads=3), "which 3 heads do not"),
    ],
)
def test_what_our_network_has_not_is_refused_by_name(folder, change, named):
    changed(folder / "config.json", change)
    with pytest.raises(CheckpointError, match=named):
        load(folder, "cpu")


@pytest.mark.parametrize("tower", ["vision_model", "text_model"])
def test_a_single_tower_is_refused_by_what_it_lacks(folder, clip, tower):
    weights = {n: v.contiguous() for n, v in clip.state_dict().items() if n.startswith(tower)}
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"CLIPModel: it has no|not a CLIP: it has no"):
        load(folder, "cpu")


def test_a_siglip_is_refused_with_what_to_do(tmp_path):
    config = {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
        "num_attention_heads": 2,
    }
    towers = {"vision_config": config | {"image_size": 32}, "text_config": config}
    transformers.SiglipModel(transformers.SiglipConfig(**towers)).save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError,
        match=r"layout of transformers, but not of its CLIPModel.*"
        r"relevance_maps",
    ):
        load(tmp_path, "cpu")


def test_an_adapter_is_told_to_be_merged(tmp_path):
    save_file(
        {"base_model.model.lora_A.weight": torch.ones(2)}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"LoRA: merge it .*merge_and_unload\(\)"):
        load(tmp_path, "cpu")


# Pictures

PROCESSORS = {
    "OpenAI's": {},
    "other statistics": {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]},
    "bilinear": {"resample": 2},
    "squash": {"size": {"height": 32, "width": 32}},
    "squash without a crop": {"size": {"height": 32, "width": 32}, "do_center_crop": False},
    "not normalised": {"do_normalize": False},
}


def processor(**options):
    given = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}} | options
    return transformers.CLIPImageProcessorPil(**given)


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (32, 32), (35, 32), (301, 517), (9, 7)])
@pytest.mark.parametrize("kind", PROCESSORS)
def test_pictures_equal_the_processors(folder, kind, size):
    reference = processor(**PROCESSORS[kind])
    reference.save_pretrained(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3))
    image = Image.fromarray(pixels.astype(np.uint8))
    _, preprocess = load(folder, "cpu")
    expected = torch.as_tensor(np.array(reference(image)["pixel_values"][0]))
    torch.testing.assert_close(preprocess(image), expected, atol=3e-6, rtol=0)


def test_the_processor_may_be_saved_with_the_tokenizer(folder):
    content = {"image_processor": processor(image_mean=[0.5] * 3).to_dict()}
    (folder / "processor_config.json").write_text(json.dumps(content))
    assert load(folder, "cpu")[0].visual.preprocessing.mean == (0.5, 0.5, 0.5)


def test_old_processors_have_sizes_as_numbers(folder):
    content = {"size": 32, "crop_size": 32, "resample": 3, "feature_extractor_type": "CLIP"}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    assert load(folder, "cpu")[0].visual.preprocessing.resize_mode == "shortest"


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": {"shortest_edge": 64}},
        {"crop_size": {"height": 48, "width": 48}},
        {"do_center_crop": False},
        {"do_resize": False},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
        {"size": {"height": 32, "width": 48}},
    ],
)
def test_a_processor_that_does_not_make_what_the_network_reads_is_refused(folder, wrong):
    processor(**wrong).save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: it does not make"):
        load(folder, "cpu")


@pytest.mark.parametrize(
    "wrong", [{"image_std": [0, 1, 1]}, {"image_mean": "grey"}, {"resample": 0}]
)
def test_values_of_the_wrong_kind_are_refused(folder, wrong):
    changed_processor = json.loads(processor().to_json_string()) | wrong
    (folder / "preprocessor_config.json").write_text(json.dumps(changed_processor))
    with pytest.raises(CheckpointError, match=rf"{next(iter(wrong))} must be"):
        load(folder, "cpu")

"""Names of other packages' models: found in their caches, without a network, or a clear word."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import open_clip
import pytest

import checkpoints
from checkpoints import OFFICIAL, CheckpointError, available_models
from checkpoints.official import hub_copy
from clip_ import load
from other_libraries import (
    assert_same_features,
    open_clip_config,
    open_clips,
    save_open_clips,
    transformers_clip,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def snapshot(cache: Path, repository: str, absent: tuple[str, ...] = ()) -> Path:
    """The folder of a repository's files in the cache; of those `absent` it is known."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for name in absent:
        (folder / ".no_exist" / COMMIT).mkdir(parents=True, exist_ok=True)
        (folder / ".no_exist" / COMMIT / name).touch()
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    return folder / "snapshots" / COMMIT


@pytest.fixture
def tiny(monkeypatch):
    """A model of open_clip's with the tags "gelu" and "quick", in somebody's repository."""
    tags = {
        "gelu": open_clip.pretrained._pcfg(hf_hub="somebody/tiny/", mean=(0.5, 0.4, 0.3)),
        "quick": open_clip.pretrained._pcfg(hf_hub="somebody/tiny/", quick_gelu=True),
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", tags)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", open_clip_config()["model_cfg"])
    return open_clip_config()


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_open_clips_models_are_found_in_its_cache(cache, tiny, name):
    network = open_clips(tiny)
    save_open_clips(snapshot(cache, "somebody/tiny"), None, network, name)
    model, _ = load("open_clip:tiny/gelu", "cpu")
    assert_same_features(model, network)
    assert model.visual.preprocessing.mean == (0.5, 0.4, 0.3)


def test_the_activation_is_that_of_the_tag(cache, tiny):
    """open_clip computes it with GELU, and warns."""
    network = open_clips(open_clip_config(quick_gelu=True))
    folder = snapshot(cache, "somebody/tiny")
    save_open_clips(folder, None, network, "open_clip_model.safetensors")
    assert_same_features(load("open_clip:tiny/quick", "cpu")[0], network)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:tiny/other", "knows no such model and tag; of tiny: gelu, quick"),
        ("open_clip:huge/gelu", r"of huge: none; open_clip\.list_pretrained\(\) lists"),
        ("open_clip:tiny", "knows no such model and tag"),
        ("open_clip:tiny/gelu", r"could not be fetched.*\n.*neither in the cache nor .* network"),
        ("open_clip:ViT-B-16-SigLIP/webli", "an image tower of timm"),
    ],
)
def test_what_open_clip_has_not_is_said(tiny, name, message):
    with pytest.raises(CheckpointError, match=message):
        load(name, "cpu")


def test_a_repository_of_open_clip_is_found_in_the_cache(cache):
    config = open_clip_config(pictures={"resize_mode": "squash"})
    network = open_clips(config)
    folder = snapshot(cache, "somebody/classic")
    save_open_clips(folder, config, network, "open_clip_model.safetensors")
    model, _ = load("hf:somebody/classic", "cpu")
    assert_same_features(model, network)
    assert model.visual.preprocessing.resize_mode == "squash"


@pytest.mark.parametrize("shards", ["1GB", "300KB"])
def test_a_repository_of_transformers_is_found_in_the_cache(cache, shards):
    network = transformers_clip()
    folder = snapshot(cache, "somebody/clip")
    network.save_pretrained(folder, max_shard_size=shards)
    statistics = {"image_mean": [0.5] * 3, "size": 32, "crop_size": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    model, _ = load("hf:somebody/clip", "cpu")
    assert_same_features(model, network)
    assert model.visual.preprocessing.mean == (0.5, 0.5, 0.5)


def test_a_processor_out_of_reach_is_not_taken_for_none(cache):
    """Its statistics may be any."""
    transformers_clip().save_pretrained(snapshot(cache, "somebody/clip"))
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json of hf:somebody/clip cou"):
        load("hf:somebody/clip", "cpu")


def test_a_processor_known_not_to_be_there_is_not_waited_for(cache):
    absent = ("preprocessor_config.json", "processor_config.json")
    network = transformers_clip()
    network.save_pretrained(snapshot(cache, "somebody/clip", absent))
    assert_same_features(load("hf:somebody/clip", "cpu")[0], network)


def test_a_shard_out_of_reach_is_named(cache):
    folder = snapshot(cache, "somebody/clip")
    transformers_clip().save_pretrained(folder, max_shard_size="300KB")
    shard = sorted(folder.glob("*-of-*"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard.name} of hf:somebody/clip could not be"):
        load("hf:somebody/clip", "cpu")


@pytest.mark.parametrize("name", ["hf:somebody/nothing", "hf:", "hf:a/b/c"])
def test_a_repository_out_of_reach_is_said_to_be(name):
    with pytest.raises(
        CheckpointError, match=rf"{name} could not be fetched.*\n.*over the network"
    ):
        load(name, "cpu")


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("open_clip:ViT-B-32/openai", "open_clip", "pip install open_clip_torch"),
        ("hf:openai/clip-vit-base-patch32", "huggingface_hub", "pip install huggingface_hub"),
    ],
)
def test_without_the_package_its_installation_is_told(monkeypatch, name, package, install):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CheckpointError, match=install):
        load(name, "cpu")


def test_the_packages_are_not_imported_for_anything_else():
    program = (
        "import sys, clip_; clip_.load('RN-emoji', 'cpu'); "
        "print({'open_clip', 'huggingface_hub', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(checkpoints.__file__).parents[1])},
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_available_models_are_those_of_this_project_and_openai():
    assert not [name for name in available_models() if ":" in name]


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_official_model_has_a_copy_on_the_hub(name):
    """By the name that the error of a failed download offers."""
    model, tag = hub_copy(name).removeprefix("open_clip:").split("/")
    assert tag == "openai"
    found = open_clip.get_pretrained_cfg(model, tag)
    assert found["hf_hub"].endswith("openai/")
    assert found["quick_gelu"]
    assert found["url"].endswith(OFFICIAL[name])  # the same weights

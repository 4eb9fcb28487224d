"""Checkpoints as people have them: of training scripts, of other libraries, or something else."""

import argparse

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from checkpoint_files import KNOWN, small_vit
from checkpoints import CheckpointError, load_state_dict
from clip_ import load

WRAPPED = {
    "state_dict and module.": lambda w: {"epoch": 1, "state_dict": prefixed("module.", w)},
    "model": lambda w: {"model": w, "step": 3},
    "model_state_dict": lambda w: {"model_state_dict": w, "loss": np.float64(0.5)},
    "_orig_mod.": lambda w: prefixed("_orig_mod.", w),
    "module._orig_mod.": lambda w: prefixed("module._orig_mod.", w),
    "compiled inside": lambda w: {
        name.replace("resblocks.0.", "resblocks.0._orig_mod."): value for name, value in w.items()
    },
    "Lightning": lambda w: {
        "pytorch-lightning_version": "2.5",
        "state_dict": prefixed("model.", w),
        "lr_schedulers": [{"last_epoch": 3, "_last_lr": [0.1]}],
    },
    "nested": lambda w: {"checkpoint": {"model": prefixed("clip.model.", w)}},
    "parameters": lambda w: {name: nn.Parameter(value) for name, value in w.items()},
    "optimiser": lambda w: {
        "model": w,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3), "step": torch.tensor(1.0)}}},
        "shape": torch.Size([3]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
    },
    "average": lambda w: {"state_dict_ema": w},
    "average beside": lambda w: {"model_ema": {n: v + 1 for n, v in w.items()}, "model": w},
}


def prefixed(prefix: str, weights: dict) -> dict:
    return {prefix + name: value for name, value in weights.items()}


@pytest.fixture(scope="module")
def weights():
    return dict(small_vit(300).state_dict())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", WRAPPED)
def test_training_checkpoints_are_read(tmp_path, weights, form, zipped):
    path = tmp_path / "epoch_1.pt"
    torch.save(WRAPPED[form](weights), path, _use_new_zipfile_serialization=zipped)
    read = load(path, "cpu", **KNOWN)[0].state_dict()
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)


def test_prefixes_are_taken_off_in_safetensors_too(tmp_path, weights):
    safetensors.torch.save_file(prefixed("base_model.model.", weights), tmp_path / "m.safetensors")
    assert load_state_dict(tmp_path / "m.safetensors").keys() == weights.keys()


def test_arguments_among_the_weights_are_refused_with_what_to_do(tmp_path, weights):
    torch.save({"model": weights, "args": argparse.Namespace(lr=0.1)}, tmp_path / "train.pt")
    with pytest.raises(
        CheckpointError, match=r"names argparse\.Namespace.*save the model's state_"
    ):
        load(tmp_path / "train.pt", "cpu")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"base_model.model.visual.x.lora_A.weight"}, r"LoRA: merge it .*merge_and_unload\(\)"),
        ({"vision_model.embeddings.class_embedding"}, "in the layout of transformers"),
        ({"model.text_model.x", "model.vision_model.y"}, "in the layout of transformers"),
        ({"visual.trunk.pos_embed", "text.x"}, "layout of timm"),
        (
            {"visual.proj", "visual.conv1.weight", "text.token_embedding.weight"},
            "OpenCLIP's layout",
        ),
    ],
)
def test_other_layouts_are_recognised(tmp_path, names, message):
    torch.save(dict.fromkeys(names, torch.ones(2)), tmp_path / "other.bin")
    with pytest.raises(CheckpointError, match=rf"other\.bin is .*{message}"):
        load(tmp_path / "other.bin", "cpu")


def test_a_lora_inside_a_whole_clip_is_told_to_be_merged(tmp_path, weights):
    adapted = prefixed("base_model.model.", weights)
    adapted["base_model.model.visual.conv1.lora_A.default.weight"] = torch.ones(2)
    torch.save(adapted, tmp_path / "peft.pt")
    with pytest.raises(CheckpointError, match=r"merge_and_unload\(\)"):
        load(tmp_path / "peft.pt", "cpu")


def test_a_clip_among_others_is_refused_by_their_names(tmp_path, weights):
    beside = {**prefixed("clip.", weights), "head.weight": torch.ones(2)}
    torch.save(beside, tmp_path / "classifier.pt")
    with pytest.raises(CheckpointError, match=r"a CLIP as 'clip\.' and beside it head\.weight"):
        load(tmp_path / "classifier.pt", "cpu")
    torch.save(prefixed("student.", weights) | prefixed("teacher.", weights), tmp_path / "two.pt")
    with pytest.raises(CheckpointError, match=r"several models \(student\., teacher\.\)"):
        load(tmp_path / "two.pt", "cpu")


@pytest.mark.parametrize("name", [3, b"visual.proj", None])
def test_names_that_are_no_text_are_refused(tmp_path, weights, name):
    torch.save({**weights, name: torch.ones(2)}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt has names that are no text"):
        load(tmp_path / "odd.pt", "cpu")


# Something else


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ViT-B-32", "ViT-B/32"),
        ("vit-b/32", "ViT-B/32"),
        ("ViT_B_16", "ViT-B/16"),
        ("ViT-L-14-336px", "ViT-L/14@336px"),
        ("ViT-L/14@336", "ViT-L/14@336px"),
        ("RN-50", "RN50"),
        ("rn50x4", "RN50x4"),
        ("ViT-emojis", "ViT-emoji"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_likely_one(name, meant):
    with pytest.raises(CheckpointError, match="Did you mean") as error:
        load(name, "cpu")
    assert f"Did you mean {meant!r}?" in str(error.value)


@pytest.mark.parametrize("name", ["ViT-H/14", "no/such/file.pt", "RN50x8", "ViT-B/8"])
def test_a_name_that_is_like_none_is_not_answered_with_one(name):
    with pytest.raises(CheckpointError) as error:
        load(name, "cpu")
    assert "Did you mean" not in str(error.value)


def test_a_folder_is_answered_with_the_files_in_it(tmp_path):
    (tmp_path / "epoch_1.pt").touch()
    with pytest.raises(CheckpointError, match=r"is a folder; give a file in it \(epoch_1\.pt\)"):
        load(tmp_path, "cpu")


def test_another_archive_is_answered_with_what_is_in_it(tmp_path, weights):
    np.savez(tmp_path / "weights.npz", a=np.ones(3))
    with pytest.raises(CheckpointError, match=r"zip archive \(a\.npy\) and not a checkpoint"):
        load(tmp_path / "weights.npz", "cpu")

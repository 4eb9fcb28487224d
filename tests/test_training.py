"""Training of the embedded models: resumable, and a function of its recipe alone."""

import csv
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from clip_ import load
from embedded import train as training
from embedded.train import Recipe, Stage, caption_tokens, tokenize, train
from model import CLIP
from siglip import SigLIP, build_siglip

RECIPE = Recipe(
    model={
        "embed_dim": 16,
        "image_resolution": 64,
        "vision_layers": 2,
        "vision_width": 64,
        "vision_patch_size": 16,
        "context_length": 77,
        "vocab_size": 49408,
        "transformer_width": 64,
        "transformer_heads": 1,
        "transformer_layers": 1,
    },
    stages=(Stage(32, 12, 4, objects=2, zoom=1.5), Stage(64, 8, 4, deep=True)),
    rates=((0, 0.5), (4, 1.0), (8, 1.0), (20, 0.0)),
)

PLAIN = (Stage(64, 8, 4),)
RESNET = RECIPE.model | {
    "image_resolution": 128,
    "vision_layers": (1, 1, 1, 1),
    "vision_width": 8,
    "vision_patch_size": None,
}


@pytest.fixture(autouse=True)
def eager():
    """No compiler is needed to test."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def run(folder):
    train({folder / "tiny.safetensors": RECIPE}, folder, "cpu", workers=0)
    return load_file(folder / "tiny.safetensors")


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_EVERY", 0)
    step, steps = training.Training.step, 0

    def stopped(self, *batch):
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "tiny.safetensors").exists()
    resumed = run(tmp_path / "stopped")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_weights_are_half_precision_in_the_official_layout(tmp_path):
    weights = run(tmp_path)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    model, _ = load(tmp_path / "tiny.safetensors", device="cpu")
    assert model.visual.input_resolution == 64
    assert model.encode_text(tokenize("a horse")).shape == (1, 16)


def test_the_log_has_a_row_with_every_loss(tmp_path):
    run(tmp_path)
    with (tmp_path / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["images"] == "20"
    assert {"caption", "concept", "patch", "deep", "top1"} <= row.keys()


def test_plain_models_are_asked_of_the_whole_image_alone(tmp_path):
    plain = replace(RECIPE, dense=False, stages=PLAIN)
    train({tmp_path / "w": plain}, tmp_path, "cpu", workers=0)
    with (tmp_path / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["patch"], row["deep"]) == ("nan", "nan")
    assert float(row["caption"]) > 0
    assert float(row["concept"]) > 0


@pytest.mark.parametrize(("dense", "tokens"), [(True, 1 + 4 * 4), (False, 1)])
def test_the_vit_is_trained_by_the_features_that_it_gives(dense, tokens):
    torch.manual_seed(0)
    model = CLIP(**RECIPE.model).eval()
    images = torch.randn(2, 3, 64, 64)
    features, early = training.encode_vit(model.visual, images, (0, 0), dense)
    assert features.shape == (2, tokens, 16)
    assert len(early) == model.visual.transformer.layers - 1
    torch.testing.assert_close(features[:, 0], model.encode_image(images))


@pytest.mark.parametrize(("dense", "tokens"), [(True, 1 + 4 * 4), (False, 1)])
def test_the_resnet_is_trained_by_the_features_that_it_gives(dense, tokens):
    torch.manual_seed(0)
    model = CLIP(**RESNET).eval()
    images = torch.randn(2, 3, 128, 128)
    features, early = training.encode_resnet(model.visual, images, (0, 0), dense)
    assert features.shape == (2, tokens, 16)
    assert early is None
    torch.testing.assert_close(features[:, 0], model.encode_image(images))


def test_a_caption_may_be_cut_behind_its_end():
    torch.manual_seed(0)
    model = CLIP(**RECIPE.model).eval()
    tokens = tokenize(["a horse", "a horse and a cow"])
    cut = tokens[:, : int(tokens.argmax(-1).max()) + 1]
    torch.testing.assert_close(model.encode_text(cut), model.encode_text(tokens))


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 12, 12)])
def test_newton_and_schulz_keep_directions_and_bring_their_lengths_near_one(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    along = left.mT @ training.orthogonal(matrices) @ right.mT
    lengths = along.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(along, torch.diag_embed(lengths))
    assert 0.6 < lengths.min() <= lengths.max() < 1.3


def test_muon_moves_a_matrix_as_far_as_adamw_would():
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.randn(64, 32))
    before = matrix.detach().clone()
    matrix.grad = torch.randn(64, 32)
    training.Muon([matrix], lr=0.01, weight_decay=0.0).step()
    moved = (matrix.detach() - before).square().mean().sqrt().item()
    assert moved == pytest.approx(0.01 * 0.2, rel=0.2)


def test_a_resnet_trains_from_windows_to_whole_images(tmp_path):
    stages = (Stage(64, 8, 4, objects=2), Stage(128, 4, 4))
    recipe = Recipe(model=RESNET, stages=stages, rates=((0, 1.0), (12, 0.0)))
    train({tmp_path / "tiny.safetensors": recipe}, tmp_path, "cpu", workers=0)
    model, _ = load(tmp_path / "tiny.safetensors", device="cpu")
    assert model.visual.attnpool.positional_embedding.shape[0] == 1 + 4 * 4


SIGLIP = Recipe(
    model={
        "image_resolution": 64,
        "vision_layers": 2,
        "vision_width": 64,
        "vision_patch_size": 16,
        "context_length": training.CAPTION_TOKENS,
        "vocab_size": 49408,
        "transformer_width": 64,
        "transformer_layers": 1,
    },
    stages=(Stage(32, 8, 4, objects=2, zoom=1.5), Stage(64, 4, 4)),
    rates=((0, 1.0), (12, 0.0)),
    network=SigLIP,
    dense=False,
)


def test_a_siglip_trains_from_windows_to_whole_images(tmp_path):
    train({tmp_path / "tiny.safetensors": SIGLIP}, tmp_path, "cpu", workers=0)
    weights = load_file(tmp_path / "tiny.safetensors")
    assert build_siglip(weights).visual.input_resolution == 64


def test_the_siglip_is_trained_by_the_features_that_it_gives():
    torch.manual_seed(0)
    model = SigLIP(**SIGLIP.model)
    images = torch.randn(2, 3, 64, 64)
    found, _ = training.encode_siglip(model.visual, images, (0, 0), False)
    torch.testing.assert_close(found[:, 0], model.encode_image(images))


def test_the_sigmoid_loss_asks_each_pair_by_itself():
    logits = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    same = torch.tensor([[True, False], [True, False]])
    odds = [1 / (1 + math.exp(-x)) for x in (2, 1, 0, -3)]
    expected = -sum(map(math.log, odds)) / 2
    assert training.sigmoid_loss(logits, same).item() == pytest.approx(expected)


def test_models_trained_together_are_those_trained_alone(tmp_path):
    resnet = replace(RECIPE, model=RESNET | {"image_resolution": 64}, dense=False, stages=PLAIN)
    recipes = {"vit": replace(RECIPE, dense=False, stages=PLAIN), "resnet": resnet}
    for name, recipe in recipes.items():
        train({tmp_path / name: recipe}, tmp_path / f"{name} alone", "cpu", workers=0)
    together = {tmp_path / f"{name} beside another": recipe for name, recipe in recipes.items()}
    train(together, tmp_path / "together", "cpu", workers=0)
    for name in recipes:
        alone = load_file(tmp_path / name)
        beside = load_file(tmp_path / f"{name} beside another")
        assert all(torch.equal(alone[key], beside[key]) for key in alone)


def test_other_scenes_are_not_trained_on_together(tmp_path):
    recipes = {tmp_path / "one": RECIPE, tmp_path / "another": replace(RECIPE, stages=PLAIN)}
    with pytest.raises(ValueError, match="the same scenes"):
        train(recipes, tmp_path, "cpu", workers=0)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_other_models_is_not_gone_on_with(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match="is not of another: give another --folder"):
        train({tmp_path / "another": RECIPE}, tmp_path, "cpu", workers=0)


@pytest.mark.parametrize(
    "caption", ["", "a horse, a cow and a woman's hat on sand", "an ice cream on a grey background"]
)
def test_captions_are_tokenized_as_the_model_reads_them(caption):
    assert torch.equal(caption_tokens(caption), tokenize(caption)[0, : training.CAPTION_TOKENS])

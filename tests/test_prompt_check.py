"""Do maps depend on the prompt, and does the picture show it? Checked by hand and on scenes."""

import numpy as np
import pytest
import torch

from clip_ import load, tokenize
from embedded.scenes import draw_scene
from evaluation.scene_sets import as_batch, concept_phrases
from objective import similarities, target_directions
from prompt_check import mean_correlation, prompt_check
from saliency import relevance_maps


def test_the_correlation_is_the_mean_of_pearsons_over_pairs():
    maps = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    for image, found in zip(maps.flatten(2).numpy(), mean_correlation(maps), strict=True):
        matrix = np.corrcoef(image)
        assert found == pytest.approx((matrix[0, 1] + matrix[0, 2] + matrix[1, 2]) / 3, abs=1e-6)


def test_scale_and_offset_of_a_map_do_not_matter():
    one = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    maps = torch.cat([one, 1e-30 * one, one - 2], 1)
    assert mean_correlation(maps) == pytest.approx(1)


def test_flat_maps_are_the_same_as_one_another_and_unlike_others():
    other = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    flat = torch.full((1, 1, 4, 4), 0.1)
    assert mean_correlation(torch.cat([flat, 3 * flat], 1)) == 1
    assert mean_correlation(torch.cat([flat, other], 1)) == 0


def test_presence_is_the_share_of_unrelated_prompts_below_ties_half():
    maps = torch.eye(4).reshape(1, 2, 2, 4)
    found = prompt_check(maps, torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 1, 2, 2.5]]))
    assert found.presence.tolist() == [[1, 0.375]]
    assert found.warnings == [
        "picture 0, prompt 1: 38% of the unrelated prompts are less similar to the picture, so it "
        "does not seem to show what the prompt says"
    ]


def test_the_warning_names_the_picture():
    maps = torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    maps[1, 1] = maps[1, 0]
    (warning,) = prompt_check(maps).warnings
    assert warning.startswith("picture 1: its maps hardly depend on the prompt (correlation 1.000)")


@pytest.fixture(scope="module")
def scene():
    """A model, a picture of a horse and a dog, the targets and their scores, and unrelated ones."""
    model, _ = load("ViT-emoji", device="cpu")
    images = as_batch([draw_scene(1, names=("horse", "dog"), styles=("noto",))]).images
    prompts = ["a horse", "a dog"]
    others = [one for one in concept_phrases() if one not in prompts][::6]
    with torch.no_grad():
        features = target_directions(model.encode_text(tokenize(prompts + others)))
        scores = similarities(model.encode_image(images), features)
    return model, images, features[:2], scores[:, :2], scores[:, 2:]


@pytest.mark.parametrize("method", ["attention", "rollout"])
def test_a_method_that_does_not_look_at_the_prompt_is_caught(scene, method):
    model, images, targets, _, _ = scene
    assert len(prompt_check(relevance_maps(model, images, targets, method)).warnings) == 1


@pytest.mark.parametrize("method", ["direct", "last grad", "gradcam"])
def test_a_method_that_does_is_not(scene, method):
    model, images, targets, scores, others = scene
    found = prompt_check(relevance_maps(model, images, targets, method), scores, others)
    assert found.warnings == []


def test_a_prompt_that_is_not_shown_is_named(scene):
    model, images, targets, scores, others = scene
    maps = relevance_maps(model, images, targets, "direct")
    absent = torch.stack([scores[:, 0], others.median(-1).values], 1)
    (warning,) = prompt_check(maps, absent, others).warnings
    assert warning.startswith("picture 0, prompt 1:")


TWO = torch.eye(4).reshape(1, 2, 2, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((TWO[0],), ValueError, "maps must be"),
        ((TWO[:, :1],), ValueError, "two targets or more"),
        ((TWO.numpy(),), TypeError, "maps must be a tensor"),
        ((TWO / 0,), ValueError, "maps hold NaN"),
        ((TWO, torch.ones(1, 2)), ValueError, "both, or neither"),
        ((TWO, torch.ones(2), torch.ones(1, 5)), ValueError, "one for each map"),
        ((TWO, torch.ones(1, 2), torch.ones(5)), ValueError, r"unrelated must be \[1, other\]"),
        ((TWO, torch.ones(1, 2), torch.ones(1, 0)), ValueError, "one prompt at least"),
        ((TWO, torch.ones(1, 2) / 0, torch.ones(1, 5)), ValueError, "scores hold NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        prompt_check(*arguments)

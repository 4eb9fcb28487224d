"""What notebooks and figures ask of a model is right, or refused."""

import pytest
import torch

from explainer import Explainer


@pytest.fixture(scope="module")
def vit():
    return Explainer("ViT-emoji")


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_one_prompt_is_not_taken_for_its_letters(vit):
    assert torch.equal(vit.texts("a horse"), vit.texts(["a horse"]))


def test_texts_are_strings(vit):
    with pytest.raises(TypeError, match="texts must be"):
        vit.texts(None)
    with pytest.raises(TypeError, match="texts must be strings"):
        vit.texts([1])


def test_scores_are_a_hundred_times_the_cosine_however_long_a_target_is(vit, images):
    targets = vit.texts(["a horse", "a sheep"])
    scores = vit.scores(images, targets)
    assert torch.equal(scores, 100 * (vit.pictures(images)[:, None] * targets).sum(-1))
    torch.testing.assert_close(vit.scores(images, 1e-24 * targets), scores)
    torch.testing.assert_close(vit.scores(images, 1e20 * targets), scores)


@pytest.mark.parametrize("explain", ["scores", "maps", "heat"])
def test_nan_is_no_score_and_no_map(vit, images, explain):
    targets = vit.texts(["a horse"])
    with pytest.raises(ValueError, match="images hold NaN"):
        getattr(vit, explain)(images * torch.nan, targets)
    with pytest.raises(ValueError, match="target features hold NaN"):
        getattr(vit, explain)(images, targets * torch.nan)


@pytest.mark.parametrize("explain", ["scores", "maps", "heat"])
def test_prompts_are_no_targets_and_pictures_no_images(vit, images, explain):
    with pytest.raises(TypeError, match="target features must be a tensor"):
        getattr(vit, explain)(images, ["a horse"])
    with pytest.raises(TypeError, match="images must be a tensor"):
        getattr(vit, explain)(["horse.png"], vit.texts(["a horse"]))


def test_no_pictures(vit):
    with pytest.raises(ValueError, match="at least one picture"):
        vit.read()

"""A model that was trained on other pixels than OpenAI's is shown, and shows, the same pictures."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from panels import block_panels, heat_panels
from PIL import Image

from clip_ import load, make_preprocess, tokenize
from embedded.scenes import draw_scene
from evaluation.baselines import edges
from evaluation.folders import MaskedFolder
from evaluation.scene_sets import as_batch
from explainer import Explainer
from image_utils import as_picture, normalise_pixels, read_mask, true_colours
from preprocessing import Preprocessing
from pytorch_grad_cam import GradCAM
from rn_cam import rn_perword_relevance, rn_relevance
from small_clip import small_resnet, small_vit
from vit_cam import vit_block_vis, vit_perword_relevance, vit_relevance

OTHER = Preprocessing(mean=(0.5, 0.25, 0.75), std=(0.5, 1.0, 0.25))


@pytest.fixture(scope="module")
def models():
    found = small_vit(), small_resnet()
    for model in found:
        model.visual.preprocessing = OTHER
    return found


@pytest.fixture
def colours():
    return torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def image(colours):
    return normalise_pixels(colours, OTHER).unsqueeze(0)


@pytest.fixture
def target():
    return torch.randn(1, 16, generator=torch.Generator().manual_seed(1))


def test_normalising_and_its_inverse_take_the_statistics(colours):
    mean, std = (torch.tensor(values)[:, None, None] for values in (OTHER.mean, OTHER.std))
    normalised = normalise_pixels(colours, OTHER)
    torch.testing.assert_close(normalised, (colours - mean) / std)
    torch.testing.assert_close(true_colours(normalised, OTHER), colours)
    picture = as_picture(normalised, OTHER)
    np.testing.assert_allclose(picture, colours.permute(1, 2, 0), atol=1e-6)


def test_single_images_are_shown_in_their_colours(models, image, colours, target):
    vit, resnet = models
    pictures = [
        vit_relevance(image, target, vit.visual, "cpu")[1],
        vit_relevance(image, target, vit, "cpu")[1],
        vit_perword_relevance(image, "a cow", vit, tokenize, "cpu", "cow")[1],
        rn_relevance(image, target, resnet.visual, GradCAM, "cpu")[1],
        rn_perword_relevance(image, "a cow", resnet, tokenize, GradCAM, "cpu", "cow")[1],
    ]
    for picture in pictures:
        np.testing.assert_allclose(picture, colours.permute(1, 2, 0), atol=1e-6)


def test_a_block_is_scored_on_what_it_shows(models, image, target):
    vit, _ = models
    score = vit_block_vis(image, target, vit.visual, -1, "cpu")
    seen = torch.from_numpy(plt.gca().images[0].get_array() / 255).permute(2, 0, 1).float()
    plt.close()
    with torch.no_grad():
        features = vit.encode_image(normalise_pixels(seen, OTHER).unsqueeze(0))
    assert score.item() == pytest.approx(torch.cosine_similarity(features, target).item(), abs=0.01)


def test_edges_are_those_of_the_picture(models, colours, image, target):
    usual = small_vit()
    expected = edges(usual, normalise_pixels(colours).unsqueeze(0), target)
    torch.testing.assert_close(edges(models[0], image, target), expected, atol=1e-4, rtol=1e-3)


def test_scenes_are_drawn_with_the_statistics():
    scene = draw_scene(1, size=32, count=1)
    (image,) = as_batch([scene], OTHER).images
    np.testing.assert_allclose(as_picture(image, OTHER), scene.image / np.float32(255), atol=1e-6)


@pytest.fixture
def explainer(monkeypatch, models):
    """The small ViT, as notebooks and commands load a model."""
    made = make_preprocess(32, OTHER)
    monkeypatch.setattr("explainer.load", lambda name: (models[0], made))
    return Explainer("ViT-other")


def test_panels_show_the_picture(explainer, image, target, colours):
    low = heat_panels(explainer, image, target, ["all"], masks=[None])[0].picture
    assert low.shape == (64, 64, 3)
    heat = explainer.heat(image, target)[0, 0]
    mixed = 0.5 * plt.get_cmap("jet")(heat)[..., :3] + 0.5 * colours.permute(1, 2, 0).numpy()
    np.testing.assert_allclose(low, mixed / mixed.max(), atol=1e-5)


def test_panels_of_blocks_are_scored_on_what_they_show(explainer, image, target):
    for panel in block_panels(explainer, image, target, False):
        seen = torch.from_numpy(panel.picture).permute(2, 0, 1)[None]
        expected = explainer.scores(normalise_pixels(seen, OTHER), target).item()
        assert panel.note == f"100 cos = {expected:.1f}"


# What is cut out of a picture is cut out of its mask


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_a_mask_is_cut_as_its_picture_is(tmp_path, resize_mode):
    preprocessing = Preprocessing(resize_mode=resize_mode, fill=255)
    shown = np.zeros((40, 60), np.uint8)
    shown[10:30, 20:55] = 255
    Image.fromarray(shown).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", (20, 20), picture=(40, 60), preprocessing=preprocessing)
    black = preprocessing._replace(fill=0, interpolation="bilinear")
    seen = make_preprocess(20, black)(Image.fromarray(shown))[0]
    assert (mask == (seen > 0)).float().mean() > 0.9  # but for interpolated borders
    assert mask.any()


def test_nothing_of_a_squashed_picture_is_outside(tmp_path):
    Image.new("RGB", (60, 40), "white").save(tmp_path / "a.png")
    (tmp_path / "masks" / "a").mkdir(parents=True)
    mask = np.zeros((40, 60), np.uint8)
    mask[:, :6] = 255  # left of the middle square
    Image.fromarray(mask).save(tmp_path / "masks" / "a" / "horse.png")
    squash = Preprocessing(resize_mode="squash")
    folder = MaskedFolder(tmp_path, make_preprocess(20, squash), 20, preprocessing=squash)
    (batch,) = folder
    assert batch.masks[0, 0, :, :2].all()
    assert not batch.masks[0, 0, :, 2:].any()


# What is given to load


@pytest.fixture
def path(tmp_path):
    torch.save(small_vit(300).state_dict(), tmp_path / "mine.pt")
    return tmp_path / "mine.pt"


def test_statistics_and_modes_can_be_given(path):
    given = {
        **{"mean": [0.5, 0.25, 0.75], "std": (0.5, 1, 0.25)},
        **{"interpolation": "bilinear", "resize_mode": "squash"},
    }
    model, preprocess = load(path, "cpu", activation="gelu", heads=(2, 2), **given)
    wanted = OTHER._replace(interpolation="bilinear", resize_mode="squash")
    assert model.visual.preprocessing == wanted
    picture = Image.effect_mandelbrot((60, 40), (-3, -2.5, 2, 2.5), 100)
    assert torch.equal(preprocess(picture), make_preprocess(32, wanted)(picture))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mean": 0.5}, "mean must be three numbers"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean must be three numbers"),
        ({"std": (0.5, 0, 0.5)}, "std must be three numbers above 0"),
        ({"interpolation": "nearest"}, "interpolation must be one of"),
        ({"resize_mode": "crop"}, "resize_mode must be one of"),
    ],
)
def test_values_that_are_none_are_refused(path, wrong, message):
    with pytest.raises(ValueError, match=message):
        load(path, "cpu", activation="gelu", heads=(2, 2), **wrong)


@pytest.mark.parametrize("name", ["ViT-emoji", "ViT-L/14"])
def test_those_of_known_models_are_known(name, tmp_path):
    with pytest.raises(ValueError, match=r"mean .* contradicts what is known of the model"):
        load(name, "cpu", download_root=tmp_path, mean=(0.5, 0.5, 0.5))
    assert list(tmp_path.iterdir()) == []

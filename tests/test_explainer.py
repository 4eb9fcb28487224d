"""What notebooks and figures ask of a model is right, or refused."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from clip_ import make_preprocess, tokenize
from embedded.scenes import draw_scene
from emotions import emotion_features
from evaluation.scene_sets import as_batch, concept_phrases
from evaluation.study import Study
from explainer import Explainer
from image_utils import open_image
from methods import explaining
from other_libraries import open_clip_config, open_clips
from preprocessing import Preprocessing
from recording.encoders import from_open_clip
from vit_cam import vit_perword_relevance, vit_relevance


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


# Models that are not ours


@pytest.fixture(scope="module")
def network():
    """An open_clip model that no file of ours holds: layer scale, and features of all tokens."""
    vision = {"pool_type": "avg", "ls_init_value": 0.5}
    network = open_clips(open_clip_config(vision, {"vocab_size": 49408, "context_length": 77}))
    network.visual.image_mean, network.visual.image_std = (0.5, 0.4, 0.3), (0.3, 0.2, 0.1)
    return network


@pytest.fixture(scope="module")
def preprocess(network):
    return make_preprocess(32, Preprocessing(network.visual.image_mean, network.visual.image_std))


@pytest.fixture(scope="module")
def theirs(network, preprocess):
    return Explainer(from_open_clip(network, preprocess, tokenize), "theirs")


PICTURE = Path(__file__).parents[1] / "Images" / "cow&sheep.png"
PROMPTS = ["a horse", "a red sheep"]


def test_an_encoder_scores_as_its_model_does(theirs, network, preprocess):
    images = theirs.read(PICTURE)
    assert torch.equal(images[0], preprocess(open_image(PICTURE)))
    with torch.no_grad():
        cosines = torch.nn.functional.cosine_similarity(
            network.encode_image(images), network.encode_text(tokenize(PROMPTS))
        )
    scores = theirs.scores(images, theirs.texts(PROMPTS))
    torch.testing.assert_close(scores[0], 100 * cosines)


def test_an_encoder_is_explained_by_the_methods_of_its_kind(theirs):
    assert (theirs.kind, theirs.methods) == ("ViT", list(explaining("average")))
    images = theirs.read(PICTURE)
    for method in theirs.methods:
        heat = theirs.heat(images, theirs.texts(PROMPTS), method)
        assert heat.shape == (1, 2, 32, 32)
        assert (heat.min(), heat.max()) == (0, 1)
    assert theirs.encoder.pooling == "average"


def test_overlays_of_the_original_take_a_model_that_is_not_ours(theirs, network):
    image, target = theirs.read(PICTURE), theirs.texts(["a horse"])
    relevance, picture = vit_relevance(image, target, network, "cpu")
    assert (relevance == theirs.heat(image, target)[0, 0]).all()
    seen = np.asarray(open_image(PICTURE).resize((32, 32))) / 255
    assert np.abs(picture - seen).mean() < 0.05  # its own statistics: the picture as it is
    vit_relevance(image, target, theirs.encoder, "cpu", "all grads")
    shown = vit_perword_relevance(image, "a red horse", network, tokenize, "cpu", "red")[0]
    again = vit_perword_relevance(image, "a red horse", theirs.encoder, None, "cpu", "red")[0]
    assert (shown == again).all()


def test_emotions_of_an_encoder(theirs, network, tmp_path):
    phrases = {"fear": ["a storm"], "awe": ["a mountain", "the sea"]}
    found = emotion_features(theirs.encoder, phrases, ["{}"])
    expected = [theirs.texts(texts).mean(0) for texts in phrases.values()]
    for features, mean in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(features, mean / mean.norm())
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps({name: features.tolist() for name, features in found.items()}))
    for name, features in emotion_features(network, path).items():
        torch.testing.assert_close(features, found[name])


def test_an_encoder_must_read_texts_and_pictures_and_have_a_name(network, preprocess):
    with pytest.raises(ValueError, match=r"give encode_texts .*from_open_clip"):
        Explainer(from_open_clip(network, preprocess), "theirs")
    with pytest.raises(ValueError, match="give its name"):
        Explainer(from_open_clip(network, preprocess, tokenize))


def test_pictures_that_keep_their_shapes_are_for_relevance_maps(network):
    naflex = from_open_clip(network, lambda picture: {"pixel_values": torch.ones(1, 4)}, tokenize)
    with pytest.raises(ValueError, match=r"grids of their own.*relevance_maps"):
        Explainer(naflex, "theirs")


def test_a_model_of_a_hub_that_is_not_ours_is_its_librarys(network, preprocess, monkeypatch):
    made = []

    def create(name: str, pretrained: str):
        made.append((name, pretrained))
        return network, preprocess

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", create)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: tokenize)
    explainer = Explainer("open_clip:ViT-B-16-SigLIP/webli")
    assert made == [("ViT-B-16-SigLIP", "webli")]
    assert explainer.name == "open_clip-ViT-B-16-SigLIP-webli"
    assert explainer.scores(explainer.read(PICTURE), explainer.texts(PROMPTS)).shape == (1, 2)


def test_evaluation_measures_an_encoder(theirs, tmp_path):
    study = Study(theirs, concept_phrases(), tmp_path, "", ["last grad", "attention", "random"])
    batches = [as_batch([draw_scene(0, size=32, count=2)], theirs.pixels)]
    assert not study.draws_anew()
    assert not study.takes_last_grad_apart()
    for name in study.chosen:
        assert study.localisation(name, lambda most: batches)["pointing"].shape == (2,)
        assert study.faithfulness(name, lambda most: batches)["picture"].shape == (1,)

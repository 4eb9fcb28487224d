"""The emotions of ArtEmis as targets."""

import json

import pytest
import torch
import torch.nn.functional as F

from clip_ import load, tokenize
from emotions import EMOTIONS, emotion_features, features_of_each
from small_clip import small_resnet, small_vit


@pytest.fixture(scope="module")
def model():
    return load("ViT-emoji", device="cpu")[0]


def test_there_are_the_nine_of_artemis_in_its_order(model):
    assert list(emotion_features(model)) == list(EMOTIONS) == [
        "amusement", "awe", "contentment", "excitement",
        "anger", "disgust", "fear", "sadness", "something else",
    ]  # fmt: skip


def test_features_are_the_unit_mean_of_unit_features(model):
    found = emotion_features(model, {"joy": ["a happy face", "a gift"]}, ["{}", "my {}"])
    texts = ["a happy face", "my a happy face", "a gift", "my a gift"]
    with torch.no_grad():
        expected = F.normalize(model.encode_text(tokenize(texts)), dim=-1).mean(0)
    torch.testing.assert_close(found["joy"], F.normalize(expected, dim=-1))


def test_a_face_of_an_emotion_is_nearest_to_that_emotion(model):
    features = emotion_features(model)
    with torch.no_grad():
        text = model.encode_text(tokenize("an angry emoji"))[0]
    assert max(features, key=lambda name: features[name] @ text) == "anger"


def test_a_file_of_features_is_taken_as_the_original_wrote_it(model, tmp_path):
    path = tmp_path / "ARTEMIS_EMOTIONS.json"
    path.write_text(json.dumps({"awe": [2.0] + [0.0] * 255}))
    assert emotion_features(model, path)["awe"].tolist() == [1.0] + [0.0] * 255


@pytest.mark.parametrize("length", [1e-30, 1e30, 1e200])
def test_features_of_any_length_are_made_unit(model, tmp_path, length):
    path = tmp_path / "features.json"
    path.write_text(json.dumps({"awe": [3 * length, 4 * length] + [0.0] * 254}))
    torch.testing.assert_close(emotion_features(model, path)["awe"][:2], torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"awe": [1.0, 2.0]}', r"256 features an emotion for this model; got {'awe': \[2\]}"),
        ("[1, 2]", "must be a JSON object"),
        ('{"awe": "big"}', "must be a JSON object"),
        ('{"awe"', "must be a JSON object"),
        ("{}", "256 features"),
        (f'{{"awe": {[1] * 256}, "fear": [NaN{", 1" * 255}]}}', "features of 'fear' in .*hold NaN"),
        (f'{{"awe": [-Infinity{", 1" * 255}]}}', "features of 'awe' in .*features.json hold NaN"),
        (f'{{"awe": [1e999{", 1" * 255}]}}', "features of 'awe' in .*hold NaN or infinity"),
        (f'{{"awe": {[0] * 256}}}', "features of 'awe' in .* are all zero"),
    ],
)
def test_files_that_hold_anything_else_are_refused(model, tmp_path, content, message):
    path = tmp_path / "features.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        emotion_features(model, path)


# A file for each of two models


@pytest.fixture(scope="module")
def models():
    """Of the same width."""
    return {"small-vit": small_vit(), "small-resnet": small_resnet()}


def features(seed, names=tuple(EMOTIONS)):
    values = torch.randn(len(names), 16, generator=torch.Generator().manual_seed(seed))
    return dict(zip(names, values.tolist(), strict=True))


def written(folder, **files):
    for name, content in files.items():
        (folder / f"{name.replace('_', '-')}.json").write_text(json.dumps(content))
    return folder


def test_each_model_has_the_features_of_the_file_that_is_named_by_it(models, tmp_path):
    found = features_of_each(
        models, written(tmp_path, small_vit=features(1), small_resnet=features(2))
    )
    for name, seed in (("small-vit", 1), ("small-resnet", 2)):
        expected = F.normalize(torch.tensor(features(seed)["fear"]), dim=-1)
        torch.testing.assert_close(found[name]["fear"], expected)


def test_emotions_are_in_the_order_of_artemis_whatever_that_of_the_file(models, tmp_path):
    shuffled = dict(sorted(features(1).items()))
    written(tmp_path, small_vit=shuffled, small_resnet=features(2))
    found = features_of_each(models, tmp_path)
    assert list(found["small-vit"]) == list(found["small-resnet"]) == list(EMOTIONS)


def test_without_files_they_are_made_of_prompts(models):
    found = features_of_each(models)
    for name, model in models.items():
        torch.testing.assert_close(found[name], emotion_features(model))


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"small_vit": features(1)}, FileNotFoundError, r"small-resnet\.json.*for small-resnet"),
        (
            {"small_vit": features(1), "small_resnet": features(1)},
            ValueError,
            r"small-resnet\.json holds the features of small-vit",
        ),
        (
            {"small_vit": {"model": "small-resnet", **features(1)}, "small_resnet": features(2)},
            ValueError,
            r"small-vit\.json holds features for the model 'small-resnet', not for small-vit",
        ),
        (
            {"small_vit": features(1, ("awe", "joy")), "small_resnet": features(2)},
            ValueError,
            "must hold the emotions amusement, .*; got awe, joy",
        ),
    ],
)
def test_features_of_another_model_are_refused(models, tmp_path, files, error, message):
    with pytest.raises(error, match=message):
        features_of_each(models, written(tmp_path, **files))


def test_a_file_may_say_for_which_model_it_is(models, tmp_path):
    mine = {"model": "small-vit", **features(1)}
    found = features_of_each(models, written(tmp_path, small_vit=mine, small_resnet=features(2)))
    assert list(found["small-vit"]) == list(EMOTIONS)

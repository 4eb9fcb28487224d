"""The emotions of ArtEmis as targets."""

import json

import pytest
import torch
import torch.nn.functional as F

from clip_ import load, tokenize
from emotions import EMOTIONS, emotion_features


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"awe": [1.0, 2.0]}', r"256 features an emotion for this model; got {'awe': \[2\]}"),
        ("[1, 2]", "must be a JSON object"),
        ('{"awe": "big"}', "must be a JSON object"),
        ('{"awe"', "must be a JSON object"),
        ("{}", "256 features"),
    ],
)
def test_files_that_hold_anything_else_are_refused(model, tmp_path, content, message):
    path = tmp_path / "features.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        emotion_features(model, path)

"""The network of SigLIP-emoji is transformers' SiglipModel, and explained like it."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import SiglipConfig, SiglipModel

import checkpoints
from clip_ import available_models, load, tokenize
from conftest import noise
from explainer import Explainer
from recording.encoders import encoder_of
from saliency import methods, relevance_maps
from siglip import SigLIP, build_siglip

SIZES = (32, 2, 128, 8, 20, 49408, 64, 2)


@pytest.fixture(scope="module")
def model() -> SigLIP:
    torch.manual_seed(0)
    model = SigLIP(*SIZES).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def theirs(model) -> SiglipModel:
    shared = {"num_hidden_layers": 2, "hidden_act": "gelu_pytorch_tanh"}
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2}
    text = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1}
    config = SiglipConfig(
        vision_config=vision | shared | {"image_size": 32, "patch_size": 8},
        text_config=text
        | shared
        | {"vocab_size": 49408, "max_position_embeddings": 20, "projection_size": 128},
    )
    theirs = SiglipModel(config).double().eval()
    theirs.load_state_dict(model.state_dict())
    return theirs


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return tokenize(["a cow", "a cow and two sheep"], context_length=20)


def test_features_are_those_of_transformers(model, theirs, tokens):
    images = noise(2, 3, 32, 32)
    with torch.no_grad():
        found = model.encode_image(images), model.encode_text(tokens)
        expected = theirs(input_ids=tokens, pixel_values=images)
    torch.testing.assert_close(F.normalize(found[0], dim=-1), expected.image_embeds)
    torch.testing.assert_close(F.normalize(found[1], dim=-1), expected.text_embeds)
    logits = expected.text_embeds @ expected.image_embeds.T * model.logit_scale.exp()
    torch.testing.assert_close(logits + model.logit_bias, expected.logits_per_text)


@pytest.mark.parametrize("method", ["last grad", "all grads", "gradcam", "direct", "rollout"])
def test_maps_are_those_of_transformers(model, theirs, method):
    images, targets = noise(2, 3, 32, 32), noise(3, 128)
    expected = relevance_maps(theirs, images, targets, method)
    torch.testing.assert_close(relevance_maps(model, images, targets, method), expected)


def test_it_is_read_by_a_probe(model):
    encoder = encoder_of(model)
    assert "direct" in methods(encoder)
    relevance_maps(encoder, noise(1, 3, 32, 32), noise(1, 128))
    assert encoder.pooling == "probe"


def test_its_image_tower_is_explained_by_itself(model):
    images, targets = noise(2, 3, 32, 32), noise(3, 128)
    expected = relevance_maps(model, images, targets)
    assert torch.equal(relevance_maps(model.visual, images, targets), expected)


def test_a_subclass_may_encode_otherwise(model):
    class Doubled(SigLIP):
        def encode_image(self, images: Tensor) -> Tensor:
            return super().encode_image(2 * images)

    doubled = Doubled(*SIZES).double().eval()
    doubled.load_state_dict(model.state_dict())
    images, targets = noise(2, 3, 32, 32), noise(3, 128)
    expected = relevance_maps(model, 2 * images, targets)
    torch.testing.assert_close(relevance_maps(doubled, images, targets), expected)


def test_padding_may_be_longer_or_shorter(model, tokens):
    expected = model.encode_text(tokens)
    torch.testing.assert_close(
        model.encode_text(tokenize(["a cow", "a cow and two sheep"])), expected
    )
    torch.testing.assert_close(model.encode_text(tokens[:, :8]), expected)


def test_a_text_that_is_too_long_is_refused(model):
    with pytest.raises(ValueError, match="more tokens than the context of this model, 20"):
        model.encode_text(tokenize("cow " * 30))


def test_pictures_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match="reads pictures of 32 x 32"):
        model.encode_image(noise(1, 3, 40, 32))


def test_a_network_is_built_from_its_weights(model):
    weights = model.state_dict()
    built = build_siglip(weights)
    assert built.state_dict().keys() == weights.keys()
    assert (built.context_length, built.visual.input_resolution) == (20, 32)


@pytest.fixture
def installed(model, tmp_path, monkeypatch) -> SigLIP:
    """The only embedded model, in half precision, as weights are shipped."""
    monkeypatch.setattr(checkpoints, "EMBEDDED_FOLDER", tmp_path)
    weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
    save_file(weights, checkpoints.embedded_file("SigLIP-emoji"))
    return build_siglip(weights)


def test_it_is_loaded_by_its_name(installed):
    assert available_models()[0] == "SigLIP-emoji"
    model, preprocess = load("SigLIP-emoji", "cpu")
    images = preprocess(Image.new("RGB", (50, 40), "red")).unsqueeze(0)
    assert images.shape == (1, 3, 32, 32)
    assert not model.training
    assert model.logit_scale.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(model.encode_image(images), installed.encode_image(images))
        halves = load("SigLIP-emoji", "cpu", dtype=torch.float16)[0].encode_image(images)
    assert halves.dtype == torch.float16


def test_its_pictures_and_texts_are_explained_by_its_name(installed, tmp_path):
    Image.effect_noise((60, 60), 90).save(tmp_path / "noise.png")
    explainer = Explainer("SigLIP-emoji")
    images = explainer.read(tmp_path / "noise.png")
    features = explainer.texts(["a cow", "a sheep on grass"])
    expected = F.normalize(installed.encode_text(tokenize(["a cow"], 20)), dim=-1)
    torch.testing.assert_close(features[:1], expected)
    assert explainer.maps(images, features).shape == (1, 2, 32, 32)
    [found] = explainer.words(["a sheep on grass"], explainer.pictures(images))
    assert found.words == ["a", "sheep", "on", "grass"]


def test_it_is_computed_in_one_way(installed):
    with pytest.raises(checkpoints.CheckpointError, match="activation 'gelu' contradicts"):
        load("SigLIP-emoji", "cpu", activation="gelu")
    with pytest.raises(ValueError, match="heads of SigLIP-emoji are known"):
        load("SigLIP-emoji", "cpu", heads=4)


def test_damaged_weights_of_it_are_named(installed):
    path = checkpoints.embedded_file("SigLIP-emoji")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(checkpoints.CheckpointError, match=r"SigLIP-emoji.* is cut off"):
        load("SigLIP-emoji", "cpu")


def test_targets_of_another_width_are_refused():
    model, _ = load("SigLIP-emoji", "cpu")
    with pytest.raises(ValueError, match="192"):
        relevance_maps(model, torch.randn(1, 3, 224, 224), torch.randn(2, 256))

"""Whatever is wrong with the input is one clear error."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from clip_ import similarity_score, tokenize
from conftest import noise
from methods import METHODS
from pytorch_grad_cam import GradCAM
from saliency import block_maps, direction_maps, normalise_maps, relevance_maps, resize_maps
from small_clip import small_resnet, small_vit
from vit_cam import (
    interpret_perword_vit,
    interpret_vit,
    interpret_vit_overlapped,
    vit_block_vis,
    vit_perword_relevance,
    vit_relevance,
)
from words import without_word, word_directions

BAD_TARGETS = {
    "wrong width": (noise(3, 17), r"\[target, 16\].*got \[3, 17\]"),
    "one axis": (noise(16), r"\[target, 16\].*unsqueeze\(0\).*got \[16\]"),
    "four axes": (noise(1, 1, 3, 16), r"got \[1, 1, 3, 16\]"),
    "none": (noise(0, 16), r"got \[0, 16\]"),
    "one is zero": (noise(3, 16) * torch.tensor([[1], [0], [1]]), "all zero"),
    "one is NaN": (noise(3, 16).index_fill(0, torch.tensor([1]), torch.nan), "NaN or infinity"),
    "one is infinite": (noise(3, 16) * torch.tensor([[1], [torch.inf], [1]]), "NaN or infinity"),
    "integers": (torch.ones(3, 16, dtype=torch.long), "must be floats.*int64"),
    "complex": (noise(3, 16).cfloat(), "must be floats.*complex64"),
    "for other images": (noise(3, 2, 16), "targets for 3 images, but 2 images"),
}
BAD_IMAGES = {
    "no batch axis": (noise(3, 32, 32), r"unsqueeze\(0\).*\[3, 32, 32\]"),
    "one channel": (noise(2, 1, 32, 32), r"\[batch, 3, height, width\].*\[2, 1, 32, 32\]"),
    "channels last": (noise(2, 32, 32, 3), r"\[batch, 3, height, width\].*\[2, 32, 32, 3\]"),
    "bytes": (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "float tensor.*uint8"),
    "height": (noise(2, 3, 30, 32), "multiples of 8.*30 x 32"),
    "width": (noise(2, 3, 32, 33), "multiples of 8.*32 x 33"),
    "empty": (noise(2, 3, 0, 32), "multiples of 8.*0 x 32"),
    "none": (noise(0, 3, 32, 32), "at least one image.*0, 3, 32, 32"),
    "one NaN": (noise(2, 3, 32, 32).index_fill(3, torch.tensor(5), torch.nan), "images hold NaN"),
    "one infinite": (noise(2, 3, 32, 32).index_fill(3, torch.tensor(5), -torch.inf), "infinity"),
}
NOT_TENSORS = {
    "a prompt": "a horse",
    "prompts": ["a horse", "a sheep"],
    "nothing": None,
    "an array": np.zeros((1, 16), np.float32),
    "a list of tensors": [torch.zeros(16)],
    "a picture": Image.new("RGB", (32, 32)),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_targets(visual, images, case):
    targets, message = BAD_TARGETS[case]
    with pytest.raises(ValueError, match=message):
        relevance_maps(visual, images, targets)


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_targets_of_block_maps_and_directions(visual, images, case):
    targets, message = BAD_TARGETS[case]
    with pytest.raises(ValueError, match=message):
        block_maps(visual, images, targets)
    if case != "one is zero":  # no direction: what two equal texts differ by
        with pytest.raises(ValueError, match=message):
            direction_maps(visual, images, targets)


@pytest.mark.parametrize("case", BAD_IMAGES)
@pytest.mark.parametrize("method", METHODS)
def test_images(visual, targets, method, case):
    images, message = BAD_IMAGES[case]
    with pytest.raises(ValueError, match=message):
        relevance_maps(visual, images, targets, method)
    with pytest.raises(ValueError, match=message):
        block_maps(visual, images, targets)


@pytest.mark.parametrize("case", NOT_TENSORS)
@pytest.mark.parametrize("explain", [relevance_maps, block_maps, direction_maps])
def test_what_is_no_tensor_is_answered_with_what_is_wanted(visual, images, targets, explain, case):
    given = NOT_TENSORS[case]
    kind = type(given).__name__
    with pytest.raises(TypeError, match=rf"model\.encode_text\(tokenize.*got .*{kind}"):
        explain(visual, images, given)
    with pytest.raises(TypeError, match=rf"tensor \[batch, 3, height, width\].*got .*{kind}"):
        explain(visual, given, targets)


@pytest.mark.parametrize("case", NOT_TENSORS)
def test_maps_are_tensors_too(case):
    for step in (normalise_maps, lambda maps: resize_maps(maps, (4, 4))):
        with pytest.raises(TypeError, match="maps must be a tensor"):
            step(NOT_TENSORS[case])


# Numbers that are none


@pytest.fixture
def networks(clip):
    """A function that breaks a weight of a copy of the CLIP."""

    def broken(name: str, value: float):
        model = copy.deepcopy(clip)
        with torch.no_grad():
            model.get_parameter(name).view(-1)[0] = value
        return model

    return broken


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "name",
    ["visual.conv1.weight", "visual.transformer.resblocks.2.mlp.c_fc.weight", "visual.proj"],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_broken_weight_shows_in_the_features(networks, images, targets, method, name, value):
    message = "features that the model gives an image hold NaN or infinity.*weights"
    model = networks(name, value)
    with pytest.raises(ValueError, match=message):
        relevance_maps(model, images, targets, method)
    with pytest.raises(ValueError, match=message):
        block_maps(model, images, targets)
    with pytest.raises(ValueError, match=message):
        vit_block_vis(images[:1], targets[:1], model, 0, "cpu")
    with pytest.raises(ValueError, match=message):
        similarity_score(model, images[:1], targets[:1])


def test_a_broken_weight_of_the_text_tower(networks, images):
    model = networks("text_projection", torch.nan)
    with pytest.raises(ValueError, match="features hold NaN"):
        vit_perword_relevance(images[:1], "a cow", model, tokenize, "cpu", "cow")


@pytest.mark.parametrize("method", METHODS)
def test_features_without_a_direction(clip, images, targets, method):
    model = copy.deepcopy(clip)
    with torch.no_grad():
        model.visual.proj.zero_()
    for explain in (relevance_maps, block_maps):
        with pytest.raises(ValueError, match="features that the model gives an image are zero"):
            explain(model, images, targets)
    with pytest.raises(ValueError, match="features that the model gives an image are zero"):
        similarity_score(model, images[:1], targets[:1])


@pytest.mark.parametrize("method", METHODS)
def test_numbers_too_large_for_half_precision(visual, images, targets, method):
    with torch.no_grad():
        visual.proj *= 1e5
    relevance_maps(visual.float(), images, targets, method)
    with pytest.raises(ValueError, match=r"too large for its precision.*model.float\(\)"):
        relevance_maps(visual.half(), images, targets, method)


def test_slopes_too_large_for_half_precision(visual, images, targets):
    with torch.no_grad():
        visual.proj *= 1e-6  # the slope of the cosine is as large as features are small
    assert relevance_maps(visual.float(), images, targets).std() > 0
    with pytest.raises(ValueError, match=r"maps .*model.float\(\).*hold NaN or infinity"):
        relevance_maps(visual.half(), images, targets)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_maps_with_what_is_no_number_are_not_normalised(value):
    maps = torch.rand(2, 3, 4, 4)
    maps[1, 1, 2, 2] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        normalise_maps(maps)
    with pytest.raises(ValueError, match="span more"):
        normalise_maps(torch.tensor([[3e38, -3e38]]))


def test_a_score_of_what_is_no_number(clip, images, targets):
    with pytest.raises(ValueError, match="images hold NaN"):
        similarity_score(clip, images[:1] * torch.nan, targets[:1])
    with pytest.raises(ValueError, match="target features hold NaN"):
        similarity_score(clip, images[:1], targets[:1] * torch.nan)


def test_a_score_of_what_is_no_tensor(clip, images, targets):
    with pytest.raises(TypeError, match=r"image must be a tensor.*Image"):
        similarity_score(clip, Image.new("RGB", (32, 32)), targets[:1])
    with pytest.raises(TypeError, match=r"encode_text\(tokenize.*got str"):
        similarity_score(clip, images[:1], "a horse")


def test_an_unknown_method_is_answered_with_the_known_ones(visual, images, targets):
    with pytest.raises(ValueError, match=r"'lastgrad'.*methods for.*" + ".*".join(METHODS)):
        relevance_maps(visual, images, targets, "lastgrad")
    with pytest.raises(ValueError, match=".*".join(METHODS)):
        interpret_vit(images[:1], targets[:1], visual, "cpu", "lastgrad")


@pytest.mark.parametrize("method", [GradCAM, 1, ["last grad"], True])
def test_a_method_is_given_by_its_name(visual, images, targets, method):
    for explain in (
        lambda: relevance_maps(visual, images, targets, method),
        lambda: interpret_vit(images[:1], targets[:1], visual, "cpu", method),
    ):
        with pytest.raises(TypeError, match="method must be a name, such as 'direct'; got"):
            explain()


def test_an_empty_name_is_no_default(visual, images, targets):
    with pytest.raises(ValueError, match="unknown method ''"):
        relevance_maps(visual, images, targets, "")


@pytest.mark.parametrize("block", [1.0, "1", True, [1], np.zeros(2)])
def test_a_block_is_given_by_its_number(visual, images, targets, block):
    for explain in (
        lambda: relevance_maps(visual, images, targets, start_block=block),
        lambda: block_maps(visual, images, targets, start_block=block),
        lambda: vit_block_vis(images[:1], targets[:1], visual, block, "cpu"),
    ):
        with pytest.raises(TypeError, match="a block is given by its number, 0 to 3; got"):
            explain()


def test_no_block_is_none_of_them(visual, images, targets):
    with pytest.raises(TypeError, match="a block is given by its number; got None"):
        vit_block_vis(images[:1], targets[:1], visual, None, "cpu")


def test_numbers_of_blocks_may_be_numpys(visual, images, targets):
    expected = relevance_maps(visual, images, targets, start_block=2)
    assert torch.equal(relevance_maps(visual, images, targets, start_block=np.int64(2)), expected)


@pytest.mark.parametrize("scale", [0, -1, torch.nan, torch.inf])
def test_a_scale_is_positive(visual, images, targets, scale):
    with pytest.raises(ValueError, match="scale must be a positive number"):
        relevance_maps(visual, images, targets, scale=scale)


def test_a_scale_is_for_vits():
    with pytest.raises(ValueError, match="scale is for ViTs"):
        relevance_maps(small_resnet(100), noise(1, 3, 64, 64).float(), noise(1, 16), scale=100)


@pytest.mark.parametrize("block", [4, -5])
def test_a_block_that_the_model_does_not_have(visual, images, targets, block):
    message = rf"block {block} is out of range.*0 to 3"
    with pytest.raises(ValueError, match=message):
        relevance_maps(visual, images, targets, start_block=block)
    with pytest.raises(ValueError, match=message):
        vit_block_vis(images[:1], targets[:1], visual, block, "cpu")


def calls(model, image, target, word="cow"):
    """Every function for one image."""
    sentence = (image, "a cow", model, tokenize, "cpu", word)
    return {
        "vit_relevance": lambda: vit_relevance(image, target, model, "cpu"),
        "interpret_vit": lambda: interpret_vit(image, target, model, "cpu"),
        "interpret_vit_overlapped": lambda: interpret_vit_overlapped(image, target, model, "cpu"),
        "vit_block_vis": lambda: vit_block_vis(image, target, model, 0, "cpu"),
        "vit_perword_relevance": lambda: vit_perword_relevance(*sentence),
        "interpret_perword_vit": lambda: interpret_perword_vit(*sentence),
    }


every_function = pytest.mark.parametrize("name", calls(None, None, None))
with_target = pytest.mark.parametrize("name", [n for n in calls(0, 0, 0) if "perword" not in n])


@every_function
def test_a_resnet_is_no_vit(name):
    with pytest.raises(TypeError, match=r"ViT-based CLIP.*ModifiedResNet"):
        calls(small_resnet().double(), noise(1, 3, 64, 64), noise(1, 16))[name]()


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), "ViT-B/32", None, (1, 2)])
def test_a_model_that_is_no_clip(images, targets, model):
    with pytest.raises(TypeError, match=f"model must be a CLIP.*{type(model).__name__}"):
        relevance_maps(model, images, targets)


@every_function
@pytest.mark.parametrize("case", ["two images", "no batch axis"])
def test_one_image_at_a_time(clip, name, case):
    image = noise(2, 3, 32, 32) if case == "two images" else noise(3, 32, 32)
    with pytest.raises(ValueError, match=r"image must be one.*relevance_maps takes many"):
        calls(clip, image, noise(1, 16))[name]()


@every_function
@pytest.mark.parametrize("case", NOT_TENSORS)
def test_an_image_is_a_tensor(clip, name, case):
    with pytest.raises(TypeError, match=r"image must be a tensor.*preprocess\(picture\)"):
        calls(clip, NOT_TENSORS[case], noise(1, 16))[name]()


@with_target
@pytest.mark.parametrize("case", NOT_TENSORS)
def test_a_target_is_a_tensor(clip, name, case):
    with pytest.raises(TypeError, match=r"target_features must be a tensor.*encode_text"):
        calls(clip, noise(1, 3, 32, 32), NOT_TENSORS[case])[name]()


@every_function
def test_an_image_has_no_nan(clip, name):
    with pytest.raises(ValueError, match="images hold NaN"):
        calls(clip, noise(1, 3, 32, 32) * torch.nan, noise(1, 16))[name]()


@with_target
@pytest.mark.parametrize("shape", [(2, 16), (16,), (1, 3, 16)])
def test_one_target_at_a_time(visual, name, shape):
    with pytest.raises(ValueError, match=r"target_features must be one.*relevance_maps takes many"):
        calls(visual, noise(1, 3, 32, 32), noise(*shape))[name]()


@pytest.mark.parametrize("name", ["vit_perword_relevance", "interpret_perword_vit"])
def test_a_word_that_the_text_does_not_have(clip, name):
    with pytest.raises(ValueError, match=r"'goat' is not a word.*\['a', 'cow'\]"):
        calls(clip, noise(1, 3, 32, 32), None, "goat")[name]()


@pytest.mark.parametrize("word", [None, 1.0, True, ["cow"], np.zeros(2)])
def test_a_word_is_a_string_or_a_position(clip, word):
    with pytest.raises(TypeError, match="a word is a string, or its position"):
        without_word("a cow", word)
    with pytest.raises(TypeError, match="a word is a string, or its position"):
        vit_perword_relevance(noise(1, 3, 32, 32), "a cow", clip, tokenize, "cpu", word)


@pytest.mark.parametrize("text", [None, ["a cow"], 1])
def test_a_text_is_a_string(clip, text):
    with pytest.raises(TypeError, match="a text is a string"):
        without_word(text, "cow")
    with pytest.raises(TypeError, match="text"):
        word_directions(clip, tokenize, text, [""])


def test_words_are_read_by_a_whole_clip(clip):
    with pytest.raises(TypeError, match=r"words are read by a whole CLIP; got model\.Vision"):
        word_directions(clip.visual, tokenize, "a cow", ["cow"])


# Texts as token ids


TOKENS = tokenize(["a horse", "a sheep"])
BAD_TOKENS = {
    "a prompt": ("a horse", TypeError, r"encode_text\(tokenize\(.*got str"),
    "prompts": (["a horse"], TypeError, r"encode_text\(tokenize\(.*got list"),
    "an array": (TOKENS.numpy(), TypeError, "got numpy.ndarray"),
    "floats": (TOKENS.float(), ValueError, "got torch.float32"),
    "truth values": (TOKENS > 0, ValueError, "got torch.bool"),
    "one axis": (TOKENS[0], ValueError, r"\[text, token\].*\[77\]"),
    "none": (TOKENS[:0], ValueError, r"\[0, 77\]"),
    "too long": (torch.cat([TOKENS, TOKENS], 1), ValueError, "reads 77 tokens.*got 154"),
    "out of the vocabulary": (TOKENS + 1, ValueError, "0 to 49407; got 1 to 49408"),
    "negative": (TOKENS - 1, ValueError, "0 to 49407; got -1 to 49406"),
    "no end": (TOKENS.masked_fill(TOKENS == 49407, 0), ValueError, "no end token, id 49407"),
    "one without an end": (torch.cat([TOKENS, 0 * TOKENS]), ValueError, "no end token"),
}


@pytest.mark.parametrize("case", BAD_TOKENS)
@pytest.mark.parametrize("grad", [False, True])
def test_token_ids(clip, case, grad):
    tokens, error, message = BAD_TOKENS[case]
    with torch.set_grad_enabled(grad), pytest.raises(error, match=message):
        clip.encode_text(tokens)


def test_token_ids_of_32_bits_are_as_good(clip):
    with torch.no_grad():
        assert torch.equal(clip.encode_text(TOKENS.int()), clip.encode_text(TOKENS))


# Models that autograd may not read


@pytest.mark.parametrize("method", METHODS)
def test_a_model_made_in_inference_mode_is_refused_with_the_remedy(images, targets, method):
    with torch.inference_mode():
        model = small_vit(vocab_size=100).double()
    for explain in (
        lambda: relevance_maps(model, images, targets, method),
        lambda: block_maps(model, images, targets),
    ):
        with pytest.raises(ValueError, match=r"inference_mode.*copy.deepcopy\(model\)"):
            explain()
    relevance_maps(copy.deepcopy(model), images, targets, method)

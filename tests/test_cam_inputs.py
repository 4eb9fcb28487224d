"""What CAMs are given: right, or refused with a sentence that says what would be right."""

import contextlib
import functools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import noise
from pytorch_grad_cam import CAMS, AblationCAM, FullGrad, GradCAM, GuidedBackpropReLUModel
from rn_cam import rn_relevance
from saliency import methods, relevance_maps
from small_clip import small_resnet

every_cam = pytest.mark.parametrize("name", CAMS)
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(scope="module")
def clip():
    return small_resnet(vocab_size=100).double()


@pytest.fixture
def visual():
    """Float64, of a test's own."""
    return small_resnet(vocab_size=100).double().visual


@pytest.fixture(scope="module")
def images():
    return noise(2, 3, 64, 64)


@pytest.fixture(scope="module")
def targets():
    return noise(3, 16)


# NaN and infinity


@every_cam
@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
def test_a_pixel_that_is_no_number_is_refused(name, value, visual, images, targets):
    images = images.clone()
    images[1, 2, 30, 40] = value
    with pytest.raises(ValueError, match=r"images hold NaN or infinity \(1 of 24,576"):
        relevance_maps(visual, images, targets, name)
    with pytest.raises(ValueError, match="images hold NaN or infinity"):
        CAMS[name](visual, [visual.layer4[-1]])(images, targets, aug_smooth=True)


@every_cam
def test_a_pixel_that_is_too_large_for_half_precision_is_refused(name, targets, images):
    visual = small_resnet(vocab_size=100).half().visual
    with pytest.raises(ValueError, match="images hold NaN or infinity"):
        relevance_maps(visual, 1e6 * images, targets, name)


WEIGHTS = ["conv1.weight", "layer2.0.bn2.bias", "layer4.0.conv3.weight", "layer4.0.bn3.running_var"]
WEIGHTS += ["attnpool.k_proj.weight", "attnpool.c_proj.bias", "attnpool.positional_embedding"]


@every_cam
@pytest.mark.parametrize("path", WEIGHTS)
def test_a_weight_that_is_no_number_is_refused(name, path, visual, images, targets):
    visual.state_dict()[path].flatten()[0] = NAN
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        relevance_maps(visual, images, targets, name)


@every_cam
@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
def test_an_activation_that_is_no_number_is_refused(name, value, visual, images, targets):
    def spoil(_layer, _inputs, output):
        output = output.clone()
        output[..., :1, 0, 0] = value
        return output

    visual.layer4[-1].register_forward_hook(spoil)
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        relevance_maps(visual, images, targets, name)


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "XGradCAM", "EigenGradCAM", "GScoreCAM"])
def test_a_gradient_that_is_no_number_is_refused(name, visual, images, targets):
    def steep(_layer, inputs, output):
        # sqrt is steep without end at zero, and its value there is a number.
        return output + inputs[0].flatten(1)[:, :1].mul(0).sqrt()

    visual.attnpool.register_forward_hook(steep)
    with pytest.raises(ValueError, match="gradients at Bottleneck hold NaN or infinity"):
        relevance_maps(visual, images, targets, name)


def test_full_grad_refuses_a_bias_that_is_no_number(visual, images, targets):
    visual.layer4[-1].bn3.bias.data[3] = -INFINITY  # the activation behind it is zero
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        FullGrad(visual)(images, targets)


def test_guided_backpropagation_refuses_what_is_no_number(visual, images, targets):
    with pytest.raises(ValueError, match="images hold NaN"):
        GuidedBackpropReLUModel(visual).gradients(images / 0, targets)
    visual.attnpool.c_proj.bias.data[0] = NAN
    with pytest.raises(ValueError, match="features that the model gives an image hold NaN"):
        GuidedBackpropReLUModel(visual).gradients(images, targets)


@every_cam
def test_an_image_without_features_has_no_cosine(name, visual, images, targets):
    visual.attnpool.c_proj.weight.data.zero_()
    visual.attnpool.c_proj.bias.data.zero_()
    with pytest.raises(ValueError, match="features that the model gives an image are zero"):
        relevance_maps(visual, images, targets, name)


# Modes of torch


@every_cam
def test_inside_autocast_maps_are_those_outside(name, images, targets):
    visual = small_resnet(vocab_size=100).visual
    layers = [visual.layer4[-1]]
    images, targets = images[:1].float(), targets.float()
    expected = relevance_maps(visual, images, targets, name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = relevance_maps(visual, images, targets, name)
        (array,) = CAMS[name](visual, layers)(images, targets)
        guided = GuidedBackpropReLUModel(visual).gradients(images, targets)
    assert torch.equal(maps, expected)
    assert array.dtype == np.float32
    assert torch.equal(guided, GuidedBackpropReLUModel(visual).gradients(images, targets))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@every_cam
def test_with_anomaly_detection_maps_are_the_same(name, visual, images, targets):
    expected = relevance_maps(visual, images, targets, name)
    with torch.autograd.detect_anomaly():
        assert torch.equal(relevance_maps(visual, images, targets, name), expected)


def test_a_model_made_in_inference_mode_is_explained_without_gradients_or_refused(images, targets):
    with torch.inference_mode():
        visual = small_resnet(vocab_size=100).double().visual
    for name in CAMS:
        needs_none = name in ("EigenCAM", "AblationCAM", "ScoreCAM")
        refusal = pytest.raises(ValueError, match="inference_mode")
        with contextlib.nullcontext() if needs_none else refusal:
            relevance_maps(visual, images, targets, name)
    with pytest.raises(ValueError, match="inference_mode"):
        GuidedBackpropReLUModel(visual).gradients(images, targets)


# Wrong types

A_MODEL, A_LIST = "model must be a network", "target_layers must be a list"
IMAGES, TARGETS = "images must be a float tensor", "target"
WRONG = {
    "a name as model": (lambda v, i, t: GradCAM("RN50", []), TypeError, A_MODEL),
    "a class as model": (lambda v, i, t: GradCAM(type(v), []), TypeError, A_MODEL),
    "one layer": (lambda v, i, t: GradCAM(v, v.layer4[-1]), TypeError, A_LIST),
    "a stage": (lambda v, i, t: GradCAM(v, v.layer4), TypeError, A_LIST),
    "a layer's name": (lambda v, i, t: GradCAM(v, "layer4"), TypeError, A_LIST),
    "no layers": (lambda v, i, t: GradCAM(v, None), TypeError, A_LIST),
    "names of layers": (lambda v, i, t: GradCAM(v, ["layer4"]), ValueError, A_LIST),
    "nested layers": (lambda v, i, t: GradCAM(v, [[v.layer4[-1]]]), ValueError, A_LIST),
    "PIL": (lambda v, i, t: cam(v)(Image.new("RGB", (64, 64)), t), TypeError, IMAGES),
    "PIL, smooth": (
        lambda v, i, t: cam(v)(Image.new("RGB", (64, 64)), t, aug_smooth=True),
        TypeError,
        IMAGES,
    ),
    "an array": (lambda v, i, t: cam(v)(i.numpy(), t), TypeError, IMAGES),
    "no image": (lambda v, i, t: cam(v)(None, t), TypeError, IMAGES),
    "bytes": (lambda v, i, t: cam(v)(i.byte(), t), ValueError, IMAGES),
    "without batch axis": (lambda v, i, t: cam(v)(i[0], t), ValueError, IMAGES),
    "an empty batch": (lambda v, i, t: cam(v)(i[:0], t), ValueError, "one image or more"),
    "a prompt": (lambda v, i, t: cam(v)(i, "a horse"), TypeError, TARGETS),
    "prompts": (lambda v, i, t: cam(v)(i, ["a horse"]), TypeError, TARGETS),
    "no target": (lambda v, i, t: cam(v)(i, None), TypeError, TARGETS),
    "target of an array": (lambda v, i, t: cam(v)(i, t.numpy()), TypeError, TARGETS),
    "a flat target": (lambda v, i, t: cam(v)(i, t[0]), ValueError, TARGETS),
    "guided PIL": (
        lambda v, i, t: GuidedBackpropReLUModel(v)(Image.new("RGB", (64, 64)), t),
        TypeError,
        IMAGES,
    ),
    "guided prompt": (lambda v, i, t: GuidedBackpropReLUModel(v)(i[:1], "a"), TypeError, TARGETS),
    "guided name": (lambda v, i, t: GuidedBackpropReLUModel("RN50"), TypeError, A_MODEL),
    "a network with two outputs": (
        lambda v, i, t: GradCAM(Pair(v), [v.layer4[-1]])(i, t),
        TypeError,
        "must return an embedding",
    ),
    "a network that ends in maps": (
        lambda v, i, t: GradCAM(v.layer1, [v.layer1[0]])(noise(1, 8, 8, 8), t),
        ValueError,
        "must be .image, feature.",
    ),
}


class Pair(nn.Module):
    def __init__(self, visual):
        super().__init__()
        self.inner = visual

    def forward(self, x):
        return self.inner(x), x


def cam(visual):
    return GradCAM(visual, [visual.layer4[-1]])


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_type_gets_a_sentence(case, visual, images, targets):
    attempt, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        attempt(visual, images, targets)


@every_cam
def test_a_whole_clip_is_taken_for_its_image_encoder(name, clip, images, targets):
    visual = clip.visual
    (whole,) = CAMS[name](model=clip, target_layers=[visual.layer4[-1]])(images[:1], targets)
    (encoder,) = CAMS[name](model=visual, target_layers=[visual.layer4[-1]])(images[:1], targets)
    assert np.array_equal(whole, encoder)


def test_guided_backpropagation_takes_a_whole_clip_too(clip, images, targets):
    whole = GuidedBackpropReLUModel(clip).gradients(images, targets)
    assert torch.equal(whole, GuidedBackpropReLUModel(clip.visual).gradients(images, targets))


class Foreign:
    """A CAM of another package: it takes the same arguments."""

    def __init__(self, model, target_layers):
        raise AssertionError("made, though it is not one of ours")


@pytest.mark.parametrize(
    "method", ["GradCAM", "gradcam", None, Foreign, 3], ids=lambda method: str(method)
)
def test_the_method_of_rn_cam_is_a_class_of_this_project(method, clip, images, targets):
    with pytest.raises(TypeError, match="such as GradCAM"):
        rn_relevance(images[:1], targets[:1], clip.visual, method, "cpu")


def test_an_instance_is_no_class(clip, images, targets):
    with pytest.raises(TypeError, match="such as GradCAM"):
        rn_relevance(images[:1], targets[:1], clip.visual, cam(clip.visual), "cpu")


def test_a_class_with_options_is_a_method(clip, images, targets):
    slow = functools.partial(AblationCAM, batch_size=7)
    expected, _ = rn_relevance(images[:1], targets[:1], clip.visual, AblationCAM, "cpu")
    found, _ = rn_relevance(images[:1], targets[:1], clip.visual, slow, "cpu")
    np.testing.assert_allclose(found, expected, atol=1e-6)


# Other pools


class MeanPool(nn.Module):
    """What people put in the place of the attention pool to fine-tune."""

    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(256, classes)

    def forward(self, x):
        return self.head(x.mean((2, 3)))


@every_cam
@pytest.mark.parametrize("classes", [16, 10])
def test_a_replaced_pool_is_explained_at_its_own_width(name, classes, visual, images):
    visual.attnpool = MeanPool(classes).double()
    targets = noise(2, classes)
    maps = relevance_maps(visual, images, targets, name)
    assert (maps + relevance_maps(visual, images, targets, name, negative=True)).any()
    with pytest.raises(ValueError, match=f"{classes}.*as wide as the targets, 7"):
        relevance_maps(visual, images, noise(2, 7), name)


def test_where_a_pool_is_not_ours_the_default_is_what_does_not_read_it(visual, images):
    assert next(iter(methods(visual))) == "pool"
    visual.attnpool = MeanPool(16).double()
    assert "pool" not in methods(visual)
    assert next(iter(methods(visual))) == "GradCAM"
    targets = noise(2, 16)
    by_name = relevance_maps(visual, images, targets, "GradCAM")
    assert torch.equal(relevance_maps(visual, images, targets), by_name)
    with pytest.raises(ValueError, match=r"something was done .* attention pool"):
        relevance_maps(visual, images, targets, "pool")


def test_the_map_of_a_mean_pool_is_its_class_activation_map(visual, images):
    """Zhou et al., CVPR 2016: below a mean and a linear layer GradCAM weighs by that layer."""
    visual.attnpool = MeanPool(10).double()
    target = torch.eye(10).double()[:1]
    (maps,) = GradCAM(visual, [visual.layer4[-1]]).maps(images, target)
    with torch.no_grad():
        cells, features = visual.trunk(images), visual(images)
    unit = nn.functional.normalize(features, dim=-1)
    slope = (target - unit[:, :1] * unit) / features.norm(dim=-1, keepdim=True)
    weights = slope @ visual.attnpool.head.weight / cells[0, 0].numel()
    expected = torch.einsum("bc,bchw->bhw", weights, cells).relu()
    torch.testing.assert_close(maps[:, 0], expected)

"""The CAM family: definitions against plain implementations, batches, layers, networks, traces."""

import copy
import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from conftest import noise
from pytorch_grad_cam import (
    CAMS,
    AblationCAM,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    GScoreCAM,
    GuidedBackpropReLUModel,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    XGradCAM,
)
from saliency import relevance_maps
from small_clip import small_resnet

every_cam = pytest.mark.parametrize("name", CAMS)


def plus_plus(a, g):
    alpha = g**2 / (2 * g**2 + a.sum((1, 2), True) * g**3 + 1e-6)
    return (alpha * g.relu()).sum((1, 2), True)


GRADIENT_CAMS = {
    GradCAM: lambda a, g: g.mean((-2, -1), keepdim=True) * a,
    HiResCAM: lambda a, g: g * a,
    LayerCAM: lambda a, g: g.relu() * a,
    XGradCAM: lambda a, g: (g * a).sum((1, 2), True) / (a.sum((1, 2), True) + 1e-7) * a,
    GradCAMPlusPlus: lambda a, g: plus_plus(a, 100 * g) * a,
}


@pytest.fixture(scope="module")
def visual():
    """Float64; one bottleneck a stage, 256 channels before the attention pool."""
    return small_resnet(vocab_size=100).double().visual


@pytest.fixture(scope="module")
def images():
    return noise(2, 3, 64, 96)


@pytest.fixture(scope="module")
def targets():
    return noise(3, 16)


def cosine(visual, image, target):
    return F.cosine_similarity(visual(image[None]), target[None])[0]


def layer4(visual):
    return [visual.layer4[-1]]


def whole_backward(visual, layer, image, target):
    """Activations and gradients by a plain backward pass through the whole network."""
    kept = []

    def keep(_layer, _inputs, output):
        kept.append(output)
        return output.clone()  # the layers above work in place

    handle = layer.register_forward_hook(keep)
    objective = cosine(visual, image, target)
    handle.remove()
    (gradient,) = torch.autograd.grad(objective, kept)
    return kept[0].detach()[0], gradient[0]


@pytest.mark.parametrize("cam", GRADIENT_CAMS, ids=lambda cam: cam.__name__)
@pytest.mark.parametrize("path", ["layer3.0", "layer4.0", "layer4.0.bn2"])
def test_gradient_cams_are_their_definitions(cam, path, visual, images, targets):
    layer = visual.get_submodule(path)
    (maps,) = cam(visual, [layer])(images, targets)
    for row, image in zip(maps, images, strict=True):
        for found, target in zip(row, targets, strict=True):
            weighted = GRADIENT_CAMS[cam](*whole_backward(visual, layer, image, target))
            expected = weighted.sum(0).relu().numpy()
            np.testing.assert_allclose(found, expected, atol=1e-9 * (1 + expected.max()))


def test_ablation_weighs_a_channel_by_what_the_similarity_loses_without_it(visual, images, targets):
    (maps,) = AblationCAM(visual, layer4(visual), batch_size=50)(images, targets)
    with torch.no_grad():
        activations = visual.trunk(images)
        for index, image in enumerate(images):
            for found, target in zip(maps[index], targets, strict=True):
                expected = 0
                for channel in range(activations.shape[1]):
                    left = activations[index : index + 1].clone()
                    left[:, channel] = 0
                    drop = cosine(visual, image, target) - F.cosine_similarity(
                        visual.attnpool(left), target[None]
                    )
                    expected = expected + 100 * drop * activations[index, channel]
                np.testing.assert_allclose(found, expected.relu().numpy(), atol=1e-9)


@pytest.mark.parametrize("topk", [None, 20])
def test_score_cams_weigh_a_channel_by_the_image_seen_through_it(topk, visual, images, targets):
    options = {"batch_size": 50} | ({"topk": topk} if topk else {})
    (maps,) = (GScoreCAM if topk else ScoreCAM)(visual, layer4(visual), **options)(images, targets)
    image, target = images[1], targets[2]
    activations, gradients = whole_backward(visual, visual.layer4[-1], image, target)
    chosen = range(len(activations))
    if topk:
        chosen = gradients.mean((1, 2)).topk(topk).indices.tolist()
    scores = []
    with torch.no_grad():
        for channel in chosen:
            mask = nn.UpsamplingBilinear2d(image.shape[-2:])(activations[None, None, channel])[0, 0]
            mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-12)
            scores.append(100 * cosine(visual, image * mask, target))
    weights = torch.stack(scores).softmax(0)
    expected = (weights[:, None, None] * activations[list(chosen)]).sum(0).relu()
    np.testing.assert_allclose(maps[1, 2], expected.numpy(), atol=1e-9)


@every_cam
def test_a_batch_is_its_images_and_targets_one_by_one(name, visual, images, targets):
    own = noise(2, 3, 16).flip(0)
    for given, pick in ((targets, lambda i, k: targets[k]), (own, lambda i, k: own[i, k])):
        maps = relevance_maps(visual, images, given, name)
        for i in range(2):
            for k in range(3):
                one = relevance_maps(visual, images[i : i + 1], pick(i, k)[None], name)
                torch.testing.assert_close(maps[i, k], one[0, 0], atol=1e-9, rtol=1e-6)


@every_cam
def test_maps_lie_on_the_grid_and_are_not_negative(name, visual, images, targets):
    maps = relevance_maps(visual, images, targets, name)
    grid = (64, 96) if name == "FullGrad" else (2, 3)
    assert maps.shape == (2, 3, *grid)
    assert maps.dtype == torch.float64
    assert maps.min() >= 0
    assert maps.any()


@pytest.mark.parametrize("name", [name for name in CAMS if name not in ("EigenCAM", "FullGrad")])
def test_negative_explains_the_opposite_target(name, visual, images, targets):
    negative = relevance_maps(visual, images, targets, name, negative=True)
    torch.testing.assert_close(negative, relevance_maps(visual, images, -targets, name))
    assert not torch.allclose(negative, relevance_maps(visual, images, targets, name))


def test_every_target_layer_has_its_array(visual, images, targets):
    layers = [visual.layer2[-1], visual.layer4[-1], visual.layer3[-1]]
    maps = GradCAM(model=visual, target_layers=layers, use_cuda=False)(
        input_tensor=images, target_encoding=targets[:1]
    )
    assert [array.shape for array in maps] == [(2, 1, 8, 12), (2, 1, 2, 3), (2, 1, 4, 6)]
    for array, layer in zip(maps, layers, strict=True):
        (alone,) = GradCAM(visual, [layer])(images, targets[:1])
        np.testing.assert_allclose(array, alone, atol=1e-12)


@every_cam
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_are_float32_from_models_of_less_precision(name, dtype, images, targets):
    model = small_resnet(vocab_size=100).to(dtype)
    maps = relevance_maps(model, images, targets, name)
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()


@every_cam
def test_flat_images_and_maps_give_no_nan(name, visual, targets):
    maps = relevance_maps(visual, torch.zeros(1, 3, 64, 64).double(), targets, name)
    assert maps.isfinite().all()


def test_a_layer_that_is_silent_gives_zeros(visual, images, targets):
    silent = copy.deepcopy(visual)
    nn.init.zeros_(silent.layer4[-1].bn3.weight)
    nn.init.constant_(silent.layer4[-1].bn3.bias, -1e6)
    for name in set(CAMS) - {"FullGrad"}:
        assert not relevance_maps(silent, images, targets, name).any(), name


@every_cam
def test_other_networks_that_return_an_embedding(name):
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=16)
    images, targets = noise(2, 3, 64, 64).float(), noise(2, 16).float()
    with CAMS[name](network, [network.layer4[-1]]) as cam:
        (maps,) = cam(images, targets)
    assert maps.shape[:2] == (2, 2)
    assert np.isfinite(maps).all()
    assert maps.any()


def test_ablation_inside_a_residual_block_is_refused(visual, images, targets):
    with pytest.raises(ValueError, match="residual block"):
        AblationCAM(visual, [visual.layer4[-1].bn2])(images, targets)


def plainly_guided(visual, image, target):
    """Guided backpropagation with every ReLU of a copy replaced."""

    class Guided(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(context, gradient):
            return gradient.clamp(min=0) * (context.saved_tensors[0] > 0)

    class GuidedReLU(nn.Module):
        def forward(self, x):
            return Guided.apply(x)

    visual = copy.deepcopy(visual)
    for module in list(visual.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, GuidedReLU())
    image = image.clone().requires_grad_()
    return torch.autograd.grad(cosine(visual, image, target), image)[0]


def test_guided_backpropagation_is_its_definition(visual, images, targets):
    model = GuidedBackpropReLUModel(model=visual, use_cuda=False)
    found = model.gradients(images, targets)
    assert found.shape == (2, 3, 3, 64, 96)
    expected = plainly_guided(visual, images[1], targets[2])
    torch.testing.assert_close(found[1, 2], expected)
    one = model(images[1:], targets[2:])
    np.testing.assert_allclose(one, expected.permute(1, 2, 0).numpy())


class Boom(Exception):
    pass


@every_cam
def test_nothing_is_left_on_the_model_after_an_exception_in_the_middle(name, targets, images):
    visual = small_resnet(vocab_size=100).double().visual
    weights = {key: value.clone() for key, value in visual.state_dict().items()}
    relevance_maps(visual, images, targets, name)

    def boom(*_):
        raise Boom

    handle = visual.attnpool.register_forward_hook(boom)
    with pytest.raises(Boom):
        relevance_maps(visual, images, targets, name)
    handle.remove()
    assert torch.is_grad_enabled()
    for module in visual.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert not module.training
    assert all(parameter.grad is None for parameter in visual.parameters())
    assert all(torch.equal(value, weights[key]) for key, value in visual.state_dict().items())


def test_guided_backpropagation_leaves_the_model_as_it_was(visual, images, targets):
    before = {name: type(module) for name, module in visual.named_modules()}
    GuidedBackpropReLUModel(visual).gradients(images, targets)
    assert {name: type(module) for name, module in visual.named_modules()} == before
    assert not any(module._forward_hooks for module in visual.modules())


@pytest.mark.parametrize("name", sorted(set(CAMS) - {"ScoreCAM", "GScoreCAM", "AblationCAM"}))
def test_500_calls_keep_no_tensor_alive(name, visual, targets):
    image = noise(1, 3, 64, 64)

    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    relevance_maps(visual, image, targets[:1], name)
    before = tensors()
    for _ in range(500 if name == "GradCAM" else 20):
        relevance_maps(visual, image, targets[:1], name)
    assert tensors() == before


def test_eight_threads_with_one_model_give_the_sequential_result(visual, images, targets):
    names = [name for name in CAMS if name not in ("ScoreCAM", "AblationCAM")]
    alone = {name: relevance_maps(visual, images, targets, name) for name in names}
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            (name, pool.submit(relevance_maps, visual, images, targets, name)) for name in names * 6
        ]
        for name, job in jobs:
            torch.testing.assert_close(job.result(), alone[name])


@every_cam
def test_in_inference_mode_and_without_gradients(name, visual, images, targets):
    expected = relevance_maps(visual, images, targets, name)
    with torch.no_grad():
        torch.testing.assert_close(relevance_maps(visual, images, targets, name), expected)
    with torch.inference_mode():
        inside = relevance_maps(visual, images.clone(), targets.clone(), name)
    torch.testing.assert_close(inside, expected)


BAD = {
    "width": (lambda v, i, t: GradCAM(v, layer4(v))(i, t[:, :8]), "16"),
    "zero": (lambda v, i, t: GradCAM(v, layer4(v))(i, 0 * t), "zero"),
    "nan": (lambda v, i, t: GradCAM(v, layer4(v))(i, t / 0), "NaN"),
    "no layers": (lambda v, i, t: GradCAM(v, []), "target_layers"),
    "a stranger": (lambda v, i, t: GradCAM(v, [nn.ReLU()]), "target_layers"),
    "not a map": (lambda v, i, t: GradCAM(v, [v.attnpool])(i, t), "row, column"),
    "category": (lambda v, i, t: GradCAM(v, layer4(v))(i, t, 3), "target_encoding"),
    "side": (lambda v, i, t: GradCAM(v, layer4(v))(i[..., :50], t), "multiples of 32"),
    "images": (lambda v, i, t: GradCAM(v, layer4(v))(i, t.expand(5, -1, -1)), "5 images"),
    "method": (lambda v, i, t: relevance_maps(v, i, t, "last grad"), "GradCAM, GradCAMPlusPlus"),
    "block": (lambda v, i, t: relevance_maps(v, i, t, start_block=1), "ViT"),
    "guided": (lambda v, i, t: GuidedBackpropReLUModel(v)(i, t), "one image"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_error(case, visual, images, targets):
    attempt, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        attempt(visual, images, targets)


def test_full_grad_without_biases_is_refused():
    with pytest.raises(ValueError, match="target_layers"):
        FullGrad(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten()))

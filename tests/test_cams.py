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
from torch.nn.utils import parametrize

from clip_ import load
from conftest import noise
from evaluation.localisation import pointing_game
from evaluation.scene_sets import concept_features, scene_batches
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
from saliency import relevance_maps, resize_maps
from small_clip import small_resnet, small_vit

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
        for cells, image, found in zip(activations, images, maps, strict=True):
            others = (1 - torch.eye(len(cells)))[:, :, None, None]
            without = visual.attnpool(cells * others)
            for row, target in zip(found, targets, strict=True):
                drops = cosine(visual, image, target) - F.cosine_similarity(without, target)
                expected = (100 * drops[:, None, None] * cells).sum(0).relu()
                np.testing.assert_allclose(row, expected.numpy(), atol=1e-9)


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
    with pytest.raises(ValueError, match="FullGrad reads biases"):
        FullGrad(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten()))


# Layers that work in place

STEM = ["bn1", "relu1", "bn3"]
INSIDE = ["layer2.0.bn1", "layer4.0.bn2", "layer4.0.conv1", "layer4.0.avgpool"]


@pytest.mark.parametrize("path", STEM + INSIDE)
@every_cam
def test_layers_above_that_work_in_place_change_nothing(name, path, visual, targets):
    image = noise(1, 3, 64, 64)
    if name == "AblationCAM" and path in INSIDE:
        with pytest.raises(ValueError, match="inside a residual block"):
            AblationCAM(visual, [visual.get_submodule(path)])(image, targets)
        return
    apart = copy.deepcopy(visual)
    for module in apart.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    (found,) = CAMS[name](visual, [visual.get_submodule(path)]).maps(image, targets)
    (expected,) = CAMS[name](apart, [apart.get_submodule(path)]).maps(image, targets)
    assert torch.equal(found, expected)


class Alias(nn.Module):
    """Its second layer hands on the very tensor that the last line works on in place."""

    def __init__(self):
        super().__init__()
        self.conv, self.same = nn.Conv2d(3, 8, 3), nn.Identity()
        self.head = nn.Linear(8, 16)

    def forward(self, x):
        x = self.conv(x)
        y = self.same(x).sigmoid()
        return self.head((y + x.mul_(0)).mean((2, 3)))


@pytest.mark.parametrize("name", ["EigenCAM", "ScoreCAM", "LayerCAM"])
def test_what_a_layer_put_out_is_kept_though_its_input_is_changed_later(name):
    torch.manual_seed(0)
    network, image, targets = Alias(), noise(1, 3, 8, 8).float(), noise(2, 16).float()
    (found,) = CAMS[name](network, [network.same]).maps(image, targets)
    (expected,) = CAMS[name](network, [network.conv]).maps(image, targets)
    assert expected.any()
    torch.testing.assert_close(found, expected)


# Channels through which nothing is seen


@pytest.mark.parametrize("cam", [ScoreCAM, GScoreCAM, AblationCAM])
def test_features_that_are_zero_score_zero(cam):
    """Without biases a black picture has no features, and so no direction: no cosine is counted."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 16, bias=False),
    ).eval()
    network[0].weight.data[0].abs_().neg_()  # positive pixels never wake channel 0
    image, target = torch.rand(1, 3, 32, 32), torch.randn(1, 16)
    seen = network[:2](image)[0]
    (found,) = cam(network, [network[1]]).maps(image, F.normalize(target))

    def score(features):
        return 100 * F.cosine_similarity(features, target)[0]  # 0 of zero features

    with torch.no_grad():
        if cam is AblationCAM:
            left = seen * (1 - torch.eye(8)[:, :, None, None])
            without = torch.stack([score(network[2:](cells[None])) for cells in left])
            weights = score(network(image)) - without
        else:
            masks = F.interpolate(seen[:, None], (32, 32), mode="bilinear", align_corners=True)
            low, high = masks.amin((2, 3), True), masks.amax((2, 3), True)
            masks = torch.where(high > low, (masks - low) / (high - low), 0)
            weights = torch.stack([score(network(image * mask)) for mask in masks]).softmax(0)
    expected = (weights[:, None, None] * seen).sum(0).relu()
    torch.testing.assert_close(found[0, 0], expected, atol=1e-4, rtol=1e-4)


def test_a_channel_without_which_there_are_no_features_scores_all():
    convolution, head = nn.Conv2d(3, 1, 1, bias=False), nn.Linear(16, 4, bias=False)
    network = nn.Sequential(convolution, nn.Flatten(), head)
    image = torch.rand(1, 3, 4, 4)
    target = network(image).detach()
    (found,) = AblationCAM(network, [convolution]).maps(image, F.normalize(target))
    torch.testing.assert_close(found[0, 0], 100 * convolution(image)[0, 0].detach().relu())


# No way around somebody's module


class Low(nn.Module):
    """An adapter as LoRA makes it: the layer, and a product of two small matrices beside it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down = nn.Parameter(noise(base.in_features, 2) / 4)
        self.up = nn.Parameter(noise(2, base.out_features))

    weight = property(lambda self: self.base_layer.weight)
    bias = property(lambda self: self.base_layer.bias)

    def forward(self, x):
        return self.base_layer(x) + x @ self.down @ self.up


def merged(layer):
    """The same as `Low(layer)`, as a plain layer."""
    low, plain = Low(layer), copy.deepcopy(layer)
    plain.weight.data += (low.down @ low.up).T
    return plain


@pytest.mark.parametrize("path", ["q_proj", "k_proj", "v_proj", "c_proj"])
@every_cam
def test_an_adapter_in_the_pool_is_explained_as_if_it_were_merged(name, path, visual, targets):
    image = noise(1, 3, 64, 96)
    adapted, plain = copy.deepcopy(visual), copy.deepcopy(visual)
    setattr(adapted.attnpool, path, Low(getattr(visual.attnpool, path)))
    setattr(plain.attnpool, path, merged(getattr(visual.attnpool, path)))
    torch.testing.assert_close(adapted(image), plain(image))
    assert not torch.allclose(adapted(image), visual(image))
    expected = relevance_maps(plain, image, targets, name)
    torch.testing.assert_close(relevance_maps(adapted, image, targets, name), expected)


def twice(module, _inputs=None, output=None):
    return 2 * output


def replace(module):
    plain = module.forward
    module.forward = lambda *inputs: 2 * plain(*inputs)


class Twice(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Doubling(nn.Module):
    def forward(self, weight):
        return 2 * weight


def subclass(module):
    module.__class__ = Twice


def parametrise(module):
    parametrize.register_parametrization(module, "weight", Doubling())
    parametrize.register_parametrization(module, "bias", Doubling())


CHANGES = {
    "hook": lambda module: module.register_forward_hook(twice),
    "hook before": lambda module: module.register_forward_pre_hook(lambda _, x: (2 * x[0],)),
    "replaced forward": replace,
    "subclass": subclass,
    "parametrisation": parametrise,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("path", ["q_proj", "k_proj", "v_proj", "c_proj"])
def test_the_pool_calls_projections_that_somebody_changed(change, path, visual):
    """Twice a projection is the projection with twice its weights."""
    cells = noise(2, 256, 2, 3)
    changed, plain = copy.deepcopy(visual.attnpool), copy.deepcopy(visual.attnpool)
    layer = getattr(plain, path)
    layer.weight.data *= 2
    if change != "hook before":
        layer.bias.data *= 2
    CHANGES[change](getattr(changed, path))
    torch.testing.assert_close(changed(cells), plain(cells))


@pytest.mark.parametrize("path", ["", "attnpool", "attnpool.q_proj", "attnpool.v_proj", "layer4"])
@pytest.mark.parametrize("change", ["hook", "replaced forward"])
@pytest.mark.parametrize("cam", GRADIENT_CAMS, ids=lambda cam: cam.__name__)
def test_what_is_hooked_above_the_target_layer_is_differentiated(
    cam, change, path, visual, images, targets
):
    changed = copy.deepcopy(visual)
    mirror = torch.linspace(0.5, 2, 16).double() if "attnpool" in path or not path else 1.5
    module = changed.get_submodule(path)
    if change == "hook":
        module.register_forward_hook(lambda _layer, _inputs, output: mirrored(output, mirror))
    else:
        plain = module.forward
        module.forward = lambda x: mirrored(plain(x), mirror)
    layer = changed.layer4[-1]
    (maps,) = cam(changed, [layer])(images, targets)
    for row, image in zip(maps, images, strict=True):
        for found, target in zip(row, targets, strict=True):
            weighted = GRADIENT_CAMS[cam](*whole_backward(changed, layer, image, target))
            expected = weighted.sum(0).relu().numpy()
            np.testing.assert_allclose(found, expected, atol=1e-9 * (1 + expected.max()))


def mirrored(output, factor):
    return factor * output if output.shape[-1] == 16 else 1.5 * output.flip(1)


def test_plain_pools_take_the_short_way(visual, images, monkeypatch):
    """Where nobody changed anything no key and no value is computed for any cell."""
    expected = visual(images)
    monkeypatch.delattr("model.AttentionPool2d.attend")
    assert torch.equal(visual(images), expected)


@pytest.mark.parametrize("first", [False, True])
def test_full_grad_reads_what_a_bias_adds_before_hooks_change_it(first, visual, targets):
    """A hook that doubles doubles the part of the bias too."""
    image = noise(1, 3, 64, 64)
    hooked, plain = copy.deepcopy(visual), copy.deepcopy(visual)
    hooked.layer3[0].bn1.register_forward_hook(twice, prepend=first)
    for value in (plain.layer3[0].bn1.weight, plain.layer3[0].bn1.bias):
        value.data *= 2
    expected = relevance_maps(plain, image, targets, "FullGrad")
    torch.testing.assert_close(relevance_maps(hooked, image, targets, "FullGrad"), expected)


def test_full_grad_refuses_layers_whose_bias_it_cannot_tell(visual, images, targets):
    replace(visual.layer3[0].bn1)
    try:
        with pytest.raises(ValueError, match="FullGrad cannot tell what the bias"):
            FullGrad(visual)(images, targets)
    finally:
        del visual.layer3[0].bn1.forward


# Layers of transformers


@pytest.fixture(scope="module")
def vit():
    """Float64; 4 blocks of width 128 on patches of 8 pixels."""
    return small_vit(vocab_size=100).double().visual


def as_grid(tokens):
    """4 rows and 6 columns behind the token of CLS."""
    return tokens[:, 1:].mT.unflatten(2, (4, 6))


class TokensFirst(nn.Module):
    """As OpenAI's transformer runs: [token, image, width]."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = blocks
        self.swap = nn.Identity()

    def forward(self, x):
        return self.blocks[1:](self.swap(self.blocks[0](x).transpose(0, 1)).transpose(0, 1))


VIT_LAYERS = ["transformer.resblocks.3", "transformer.resblocks.3.ln_1", "transformer.resblocks.1"]
VIT_LAYERS += ["ln_pre"]


def vit_backward(vit, layer, image, target, transform):
    kept = []
    handle = layer.register_forward_hook(lambda _layer, _inputs, output: kept.append(output))
    objective = cosine(vit, image, target)
    handle.remove()
    (gradient,) = torch.autograd.grad(objective, kept)
    return transform(kept[0].detach())[0], transform(gradient)[0]


@pytest.mark.parametrize("path", VIT_LAYERS)
@pytest.mark.parametrize("cam", GRADIENT_CAMS, ids=lambda cam: cam.__name__)
def test_reshape_transform_makes_maps_of_tokens(cam, path, vit, targets):
    images, layer = noise(2, 3, 32, 48), vit.get_submodule(path)
    before = [block.recorded for block in vit.transformer.resblocks]
    (maps,) = cam(vit, [layer], False, as_grid)(images, targets)
    assert [block.recorded for block in vit.transformer.resblocks] == before
    assert maps.shape == (2, 3, 4, 6)
    for row, image in zip(maps, images, strict=True):
        for found, target in zip(row, targets, strict=True):
            weighted = GRADIENT_CAMS[cam](*vit_backward(vit, layer, image, target, as_grid))
            expected = weighted.sum(0).relu().numpy()
            np.testing.assert_allclose(found, expected, atol=1e-9 * (1 + expected.max()))


@pytest.mark.parametrize("images", [1, 2, 25])
@pytest.mark.parametrize("name", [name for name in CAMS if name not in ("FullGrad", "AblationCAM")])
def test_the_first_axis_may_be_another_than_images(name, images, vit, targets):
    """25 images of 25 tokens: the number of either does not tell which axis is which."""
    images = noise(images, 3, 32, 48)
    swapped = copy.deepcopy(vit)
    swapped.transformer.resblocks = TokensFirst(swapped.transformer.resblocks)
    layer, same = swapped.transformer.resblocks.swap, vit.transformer.resblocks[0]
    options = {"topk": 5} if name == "GScoreCAM" else {}
    if len(images) == 25 and name.endswith("ScoreCAM"):
        images = images[:2]
    (found,) = CAMS[name](
        swapped, [layer], reshape_transform=lambda x: as_grid(x.transpose(0, 1)), **options
    )(images, targets)
    (expected,) = CAMS[name](vit, [same], reshape_transform=as_grid, **options)(images, targets)
    np.testing.assert_allclose(found, expected, atol=1e-9 * (1 + expected.max()))


def test_ablation_needs_images_on_the_first_axis(vit, targets):
    swapped = copy.deepcopy(vit)
    swapped.transformer.resblocks = TokensFirst(swapped.transformer.resblocks)
    cam = AblationCAM(
        swapped,
        [swapped.transformer.resblocks.swap],
        reshape_transform=lambda tokens: as_grid(tokens.transpose(0, 1)),
    )
    for images in (1, 2, 25):
        with pytest.raises(ValueError, match="first axis is the image"):
            cam(noise(images, 3, 32, 48), targets)


def test_ablation_in_a_transformer_leaves_a_channel_of_all_shown_tokens_out(vit, targets):
    image, block = noise(1, 3, 32, 48), vit.transformer.resblocks[1]
    (maps,) = AblationCAM(vit, [block], reshape_transform=as_grid)(image, targets)
    with torch.no_grad():
        tokens = vit.transformer.resblocks[:2](vit.embed(image))
        scores = 100 * F.cosine_similarity(vit(image), targets)
        weights = []
        for channel in range(tokens.shape[2]):
            left = tokens.clone()
            left[:, 1:, channel] = 0
            features = vit.project(vit.transformer.resblocks[2:](left)[:, 0])
            weights.append(scores - 100 * F.cosine_similarity(features, targets))
        expected = torch.einsum("ck,chw->khw", torch.stack(weights), as_grid(tokens)[0]).relu()
    np.testing.assert_allclose(maps[0], expected.numpy(), atol=1e-9)


def test_layers_of_transformers_without_reshape_transform_are_refused(vit, targets):
    for name in set(CAMS) - {"FullGrad"}:
        with pytest.raises(ValueError, match="reshape_transform"):
            CAMS[name](vit, [vit.transformer.resblocks[1]])(noise(1, 3, 32, 48), targets)


# Why GradCAM++ finds nothing on RN-emoji


@pytest.fixture(scope="module")
def scenes():
    """Eight scenes of two objects: what RN-emoji records, the weights of GradCAM++, the masks."""
    recorded = []

    class Recorder(GradCAMPlusPlus):
        def weights(self, record):
            recorded.append((record, super().weights(record)))
            return recorded[-1][1]

    model, _ = load("RN-emoji", "cpu")
    batch = next(scene_batches(8, 2, 224))
    targets = concept_features(model)[batch.concepts]
    Recorder(model, [model.visual.layer4[-1]]).maps(batch.images, targets)
    return *recorded[0], batch.masks


def test_most_channels_of_rn_emoji_are_louder_beside_objects_than_on_them(scenes):
    record, _, masks = scenes
    on = F.adaptive_avg_pool2d(masks.any(1).float(), record.activations.shape[-2:])[:, None, None]
    beside = (on < 0.05).float()

    def loudness(cells):
        return (record.activations * cells).sum((-2, -1)) / cells.sum((-2, -1))

    assert (loudness(beside) > loudness(on)).float().mean() > 0.75
    assert loudness(on).mean() < 0.5 * loudness(beside).mean()


def test_so_no_mixture_of_them_without_negative_weights_finds_an_object(scenes):
    record, plus_plus, masks = scenes

    def points_right(weights):
        maps = resize_maps((weights * record.activations).sum(2).relu(), masks.shape[-2:])
        return pointing_game(maps, masks).mean()

    plain = record.gradients.mean((-2, -1), keepdim=True)
    assert points_right(plain) > 0.6
    assert points_right(plus_plus - plus_plus.mean(2, keepdim=True)) > 0.4
    for weights in (plus_plus, plain.relu(), torch.ones_like(plain)):
        assert points_right(weights) == 0


def test_so_its_map_hardly_depends_on_the_target(scenes):
    record, plus_plus, _ = scenes
    maps = (plus_plus * record.activations).sum(2).flatten(2)
    maps = maps - maps.mean(-1, keepdim=True)
    assert F.cosine_similarity(maps[:, 0], maps[:, 1], dim=-1).mean() > 0.9

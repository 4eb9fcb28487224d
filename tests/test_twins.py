"""Twins of a model's modules: they compute the same, and nothing done to them reaches the model."""

import functools
import gc
import os
import signal
import sys
import threading
import types
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from conftest import noise
from pytorch_grad_cam import CAMS, GradCAM, GuidedBackpropReLUModel, LayerCAM
from recording.twins import twins
from saliency import relevance_maps
from small_clip import small_resnet
from test_no_trace import everything_on

every_cam = pytest.mark.parametrize("name", CAMS)


@pytest.fixture
def visual():
    """Float64, of a test's own."""
    return small_resnet(vocab_size=100).double().visual


@pytest.fixture(scope="module")
def images():
    return noise(2, 3, 64, 96)


@pytest.fixture(scope="module")
def targets():
    return noise(3, 16)


def tensors_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def maps_of(visual, images, targets, cam=LayerCAM):
    return cam(visual, [visual.layer4[-1]]).maps(images, targets)[0]


def test_a_twin_computes_the_same_with_the_same_tensors(visual, images):
    of = twins(visual)
    assert torch.equal(of[visual](images), visual(images))
    assert [id(p) for p in of[visual].parameters()] == [id(p) for p in visual.parameters()]
    assert [id(b) for b in of[visual].buffers()] == [id(b) for b in visual.buffers()]
    assert set(of[visual].modules()).isdisjoint(visual.modules())


def test_what_is_done_to_a_twin_does_not_reach_the_module(visual, images):
    before = everything_on(visual)
    of = twins(visual)
    layer = of[visual.layer4[-1]]
    layer.register_forward_hook(lambda *_: None)
    layer.note, layer.bn1.running_mean = "mine", torch.ones(8)
    layer.register_buffer("extra", torch.ones(1))
    of[visual].train()
    assert everything_on(visual) == before


@every_cam
def test_a_model_in_training_mode_is_explained_in_evaluation_mode_and_stays_as_it_is(
    name, visual, images, targets
):
    expected = relevance_maps(visual, images, targets, name)
    visual.train()
    visual.layer2.eval()  # every module has a mode of its own
    before, tensors = everything_on(visual), tensors_of(visual)
    assert torch.equal(relevance_maps(visual, images, targets, name), expected)
    with pytest.raises(ValueError, match="multiples"):
        CAMS[name](visual, [visual.layer4[-1]])(images[..., :50], targets)
    assert everything_on(visual) == before
    assert all(torch.equal(value, tensors[key]) for key, value in visual.state_dict().items())


def test_guided_backpropagation_leaves_the_mode_too(visual, images, targets):
    expected = GuidedBackpropReLUModel(visual).gradients(images, targets)
    visual.train()
    before, tensors = everything_on(visual), tensors_of(visual)
    assert torch.equal(GuidedBackpropReLUModel(visual).gradients(images, targets), expected)
    visual.attnpool.register_forward_hook(lambda *_: 1 / 0)
    before = everything_on(visual)
    with pytest.raises(ZeroDivisionError):
        GuidedBackpropReLUModel(visual).gradients(images, targets)
    assert everything_on(visual) == before
    assert all(torch.equal(value, tensors[key]) for key, value in visual.state_dict().items())


def test_threads_share_a_model_in_training_mode(visual, images, targets):
    expected = maps_of(visual, images, targets)
    visual.train()
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(maps_of, visual, images, targets) for _ in range(40)]
        assert all(visual.training for job in jobs if job.result() is not None)
    assert all(torch.equal(job.result(), expected) for job in jobs)
    assert all(module.training for module in visual.modules())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no child processes by fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_forked_while_others_explain_finds_the_model_as_it_was(visual, images, targets):
    before = everything_on(visual)
    over = threading.Event()

    def explain():
        while not over.is_set():
            maps_of(visual, images, targets)

    others = [threading.Thread(target=explain) for _ in range(2)]
    for other in others:
        other.start()
    wrong = 0
    for _ in range(20):
        child = os.fork()
        if not child:
            signal.alarm(60)  # a fork of a process with threads may hang
            differs = True
            try:
                differs = everything_on(visual) != before
            finally:
                os._exit(differs)
        wrong += os.waitpid(child, 0)[1] != 0
    over.set()
    for other in others:
        other.join()
    assert not wrong


def test_an_interruption_at_any_line_leaves_the_model_as_it_was(visual, images, targets):
    before = everything_on(visual)
    places = 0

    def interrupted_at(line):
        def trace(frame, event, _):
            nonlocal seen
            if "pytorch_grad_cam" not in frame.f_code.co_filename:
                return None
            seen += event == "line"
            if seen == line:
                raise KeyboardInterrupt
            return trace

        seen = 0
        sys.settrace(trace)
        try:
            maps_of(visual, images[:1, :, :, :64], targets[:1])
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    line = 1
    while interrupted_at(line):
        assert everything_on(visual) == before
        places += 1
        line += 1 + line // 10
    assert places > 20


@every_cam
def test_twins_die_with_the_call_without_help_from_the_garbage_collector(
    name, visual, images, targets
):
    seen = []
    visual.layer1.register_forward_hook(lambda twin, *_: seen.append(weakref.ref(twin)))
    gc.disable()
    try:
        relevance_maps(visual, images[:1], targets[:1], name)
        assert seen
        assert not any(twin() for twin in seen)
    finally:
        gc.enable()


# What others did to the model

REPLACED = {
    "a method": lambda layer: types.MethodType(
        lambda self, x: 2 * type(self).forward(self, x).flip(1), layer
    ),
    "a closure": lambda layer: enclosing(layer.forward),
    "a partial": lambda layer: functools.partial(doubled, layer.forward),
    "a default": lambda layer: lambda x, old=layer.forward: 2 * old(x).flip(1),
    "nested closures": lambda layer: enclosing(enclosing(enclosing(layer.forward))),
    "a method around a closure": lambda layer: types.MethodType(
        lambda self, x, old=layer.forward: 2 * old(x).flip(1), layer
    ),
}


def enclosing(old):
    return lambda x: 2 * old(x).flip(1)


def doubled(old, x):
    return 2 * old(x).flip(1)


@pytest.mark.parametrize("kind", REPLACED)
@pytest.mark.parametrize("path", ["layer4", "layer4.0", "layer2", "layer3.0.conv2"])
@pytest.mark.parametrize("cam", [GradCAM, LayerCAM])
def test_a_replaced_forward_is_run_wherever_it_stands(kind, path, cam, visual, images, targets):
    expected_of = small_resnet(vocab_size=100).double().visual
    for _ in range(3 if kind == "nested closures" else 1):
        layer = expected_of.get_submodule(path)
        layer.register_forward_hook(lambda _layer, _inputs, output: 2 * output.flip(1))
    expected = maps_of(expected_of, images, targets, cam)
    layer = visual.get_submodule(path)
    layer.forward = REPLACED[kind](layer)
    visual.train()
    tensors = tensors_of(visual)
    torch.testing.assert_close(maps_of(visual, images, targets, cam), expected)
    assert all(torch.equal(value, tensors[key]) for key, value in visual.state_dict().items())


def test_a_replaced_forward_may_find_the_module_among_the_globals_of_a_script(
    visual, images, targets
):
    visual.layer4.register_forward_hook(enclosing_hook)
    expected = maps_of(visual, images, targets)
    visual.layer4._forward_hooks.clear()
    script = {"old": visual.layer4.forward, "visual": visual}
    exec("visual.layer4.forward = lambda x: max(1, 2) * old(x).flip(1)", script)
    torch.testing.assert_close(maps_of(visual, images, targets), expected)


def enclosing_hook(_layer, _inputs, output):
    return 2 * output.flip(1)


def test_a_forward_that_cannot_be_followed_to_the_target_layer_is_refused(visual, images, targets):
    class Remote:
        def __init__(self, layer):
            self.layer = layer

        def __call__(self, x):
            return type(self.layer).forward(self.layer, x)

    visual.layer4.forward = Remote(visual.layer4)
    with pytest.raises(ValueError, match="cannot be followed"):
        maps_of(visual, images, targets)


def test_modules_that_refer_to_each_other_refer_to_twins(images, targets):
    class Tapped(nn.Module):
        """Reads a layer by a hook of its own, and keeps modules in a list and as a method."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.steps = [inner.attnpool, self.double]
            self.seen = []
            inner.layer4.register_forward_hook(self.keep)

        def keep(self, _layer, _inputs, output):
            self.cells = output

        def double(self, x):
            return 2 * x

        def forward(self, x):
            self.inner.trunk(x)
            for step in self.steps:
                self.cells = step(self.cells)
            return self.cells

    visual = small_resnet(vocab_size=100).double().visual
    expected = maps_of(visual, images, targets)
    tapped = Tapped(visual).train()
    (maps,) = LayerCAM(tapped, [visual.layer4[-1]]).maps(images, targets)
    torch.testing.assert_close(maps, expected)
    assert not hasattr(tapped, "cells")


def test_a_module_that_stands_in_two_places_has_one_twin():
    shared = nn.Linear(3, 3)
    network = nn.Sequential(shared, nn.Sequential(shared), nn.ReLU())
    twin = twins(network)[network]
    assert twin[0] is twin[1][0]
    assert twin[0] is not shared


@pytest.mark.parametrize("how", ["wrapped", "in place", "forward"])
@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "FullGrad", "AblationCAM"])
def test_compiled_layers_are_explained_as_uncompiled(name, how, visual, images, targets):
    expected = relevance_maps(visual, images, targets, name)
    for place, block in (("layer2", visual.layer2), ("layer4", visual.layer4)):
        if how == "wrapped":
            getattr(visual, place)[0] = torch.compile(block[0], backend=refuse)
        elif how == "in place":
            block[0].compile(backend=refuse)
        else:
            block[0].forward = torch.compile(block[0].forward, backend=refuse)
    torch.testing.assert_close(relevance_maps(visual, images, targets, name), expected)


def test_a_compiled_network_too(visual, images, targets):
    expected = maps_of(visual, images, targets)
    compiled = torch.compile(visual, backend=refuse)
    assert torch.equal(maps_of(compiled, images, targets), expected)


def refuse(*_):
    raise AssertionError("compiled, though run once")


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_scripted_part_is_run_as_it_is_and_must_be_in_evaluation_mode(images, targets):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 16),
    ).double()
    expected = GradCAM(network, [network[0]]).maps(images, targets)
    scripted = torch.jit.script(network[1])
    network[1] = scripted
    with pytest.raises(ValueError, match="TorchScript module BatchNorm2d is in training mode"):
        GradCAM(network, [network[0]]).maps(images, targets)
    network.eval()
    torch.testing.assert_close(GradCAM(network, [network[0]]).maps(images, targets), expected)


def test_parametrised_layers_are_read_as_they_compute(visual, images, targets):
    class Half(nn.Module):
        def forward(self, weight):
            return weight / 2

    parametrize.register_parametrization(visual.layer4[-1].conv3, "weight", Half())
    torch.nn.utils.parametrizations.spectral_norm(visual.layer3[-1].conv2)
    visual.train()
    tensors = tensors_of(visual)
    maps = maps_of(visual, images, targets)
    assert all(torch.equal(value, tensors[key]) for key, value in visual.state_dict().items())
    parametrize.remove_parametrizations(visual.layer4[-1].conv3, "weight")
    visual.eval()
    torch.testing.assert_close(maps, maps_of(visual, images, targets))

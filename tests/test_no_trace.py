"""Explaining leaves nothing behind: not on the model, not in memory, not between threads."""

import gc
import itertools
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

from clip_ import similarity_score
from conftest import noise
from methods import METHODS, Method
from saliency import relevance_maps
from small_clip import small_vit
from vit_cam import (
    interpret_perword_vit,
    interpret_vit_overlapped,
    vit_block_vis,
    vit_perword_relevance,
    vit_relevance,
)
from vit_oracles import ORACLES

STATM = Path("/proc/self/statm")
every_method = pytest.mark.parametrize("method", ORACLES)


@pytest.fixture
def model():
    """One parameter frozen, one module in training mode: flags that could be lost."""
    model = small_vit(vocab_size=100).double()
    model.visual.conv1.requires_grad_(False)
    model.visual.transformer.resblocks[1].train()
    return model


def letters(texts: list[str]) -> torch.Tensor:
    """A tokenizer of 100 ids; 99 is the end."""
    tokens = torch.zeros(len(texts), 77, dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text) + 1] = torch.tensor([ord(letter) % 99 for letter in text] + [99])
    return tokens


def everything_on(model: nn.Module) -> dict:
    """All attributes of all modules, hooks and flags included, and what hangs on parameters."""
    found = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            found[path, name] = dict(value) if isinstance(value, dict) else value
    for path, parameter in model.named_parameters():
        hooks = parameter._backward_hooks, parameter._post_accumulate_grad_hooks
        found[path] = parameter.grad, parameter.requires_grad, parameter.grad_fn, *hooks
    for name, value in vars(nn.modules.module).items():
        if name.startswith("_global"):
            found[name] = dict(value) if isinstance(value, dict) else value
    return found


def assert_untouched(model: nn.Module, before: dict, weights: dict) -> None:
    after = everything_on(model)
    assert after.keys() == before.keys()
    changed = [key for key in before if after[key] is not before[key] and after[key] != before[key]]
    assert not changed
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.fixture
def untouched(model):
    """Checks at the end of a test that its model is as it was."""
    before = everything_on(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    yield
    assert_untouched(model, before, weights)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


# On the model


@every_method
@pytest.mark.usefixtures("untouched")
def test_maps_leave_the_model_as_it_was(model, images, targets, method):
    negative = METHODS[method].of_targets
    relevance_maps(model, images, targets, method, negative=negative, start_block=1)
    relevance_maps(model.visual, images[:, :, :16], targets, method)


@pytest.mark.usefixtures("untouched")
def test_the_functions_of_the_original_leave_the_model_as_it_was(model, images, targets):
    image, target = images[:1], targets[:1]
    vit_relevance(image, target, model.visual, "cpu")
    interpret_vit_overlapped(image, target, model.visual, "cpu", "all grads")
    interpret_perword_vit(image, "a cow", model, letters, "cpu", "cow")
    vit_block_vis(image, target, model.visual, 1, "cpu", True)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["first block", "last block", "target", "method"])
@pytest.mark.parametrize("method", ["last grad", "all grads", "gradcam", "direct", "path"])
def test_so_does_an_exception_in_the_middle(
    model, images, targets, monkeypatch, method, place, error
):
    def fail(*_, **__):
        raise error("in the middle")

    def give_up(blocks):
        next(iter(blocks))
        fail()

    with monkeypatch.context() as patch:
        blocks = model.visual.transformer.resblocks
        if place.endswith("block"):
            block = blocks[0] if place == "first block" else blocks[-1]
            patch.setattr(type(block), "finish", lambda self, *a: fail() if self is block else a[0])
        elif place == "target":
            patch.setattr("recording.shortcuts.objective_slopes", fail)
        else:
            patch.setitem(METHODS, method, Method(give_up, METHODS[method].record))
        with pytest.raises(error, match="in the middle"):
            relevance_maps(model, images, targets, method)


# In memory


def resident() -> int:
    """Bytes of memory this process occupies."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.skipif(not STATM.exists(), reason="reads memory from /proc")
def test_500_explanations_take_no_memory(targets):
    model = small_vit(vocab_size=100).visual
    images, targets = noise(2, 3, 64, 64).float(), targets[:1].float()
    # One explanation by "all grads" holds 270 kB of attention alone: 160 of them would show.
    methods = itertools.islice(itertools.cycle(ORACLES), 560)
    for number, method in enumerate(methods):
        if number == 60:
            count, memory = tensors(), resident()
        relevance_maps(model, images, targets, method)
    assert tensors() == count
    assert resident() - memory < 20e6


def test_the_functions_of_the_original_take_no_memory(model, images, targets):
    def explain():
        vit_relevance(images[:1], targets[:1], model, "cpu")
        vit_perword_relevance(images[:1], "a cow", model, letters, "cpu", "cow")
        vit_block_vis(images[:1], targets[:1], model, 1, "cpu", True)
        plt.clf()

    for _ in range(3):
        explain()
    count = tensors()
    for _ in range(10):
        explain()
    assert tensors() == count


class Saved:
    """A tensor that some computation graph keeps for its backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor.detach()


@pytest.fixture
def graphs():
    """What graphs hold now, without help from the garbage collector."""
    alive = weakref.WeakSet()

    def save(tensor):
        saved = Saved(tensor)
        alive.add(saved)
        return saved

    gc.disable()
    with torch.autograd.graph.saved_tensors_hooks(save, lambda saved: saved.tensor):
        yield alive
    gc.enable()


@every_method
def test_no_graph_outlives_an_explanation(visual, images, targets, graphs, method):
    maps = relevance_maps(visual, images, targets, method)
    assert not graphs
    assert maps.grad_fn is None


def test_recording_keeps_no_graph_alive(model, images, graphs):
    model.eval()
    for _ in range(100):
        score = similarity_score(model, images[:1], model.encode_text(letters(["a cow"])))
        assert graphs
        score.backward()
        del score
        assert not graphs
    for transformer in (model.visual.transformer, model.transformer):
        for block in transformer.resblocks:
            assert block.attn_probs.grad_fn is None
            assert block.attn_grad.grad_fn is None


def test_nor_does_a_forward_pass_without_a_backward_pass(visual, images, graphs):
    features = visual(images)
    assert graphs
    del features
    assert not graphs


# Between threads


def test_eight_threads_with_one_model_give_the_sequential_result(visual, targets):
    many = noise(8, 2, 3, 32, 32)
    signed = [
        (method, negative) for method in ORACLES for negative in (False, METHODS[method].of_targets)
    ]
    cases = list(itertools.product(signed, [0, 2], range(8)))

    def explain(case):
        (method, negative), start, index = case
        return relevance_maps(
            visual, many[index], targets, method, negative=negative, start_block=start
        )

    expected = [explain(case) for case in cases]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(explain, cases))
    for result, reference in zip(results, expected, strict=True):
        torch.testing.assert_close(result, reference, rtol=1e-10, atol=1e-14)


def test_modes_of_one_thread_do_not_reach_another(visual, images, targets):
    expected = relevance_maps(visual, images, targets)
    modes = [torch.no_grad, torch.inference_mode, torch.enable_grad] * 8

    def explain(mode):
        with mode():
            maps = relevance_maps(visual, images, targets)
            return maps.clone(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    with ThreadPoolExecutor(8) as pool:
        for mode, (maps, grad, inference) in zip(modes, pool.map(explain, modes), strict=True):
            torch.testing.assert_close(maps, expected, rtol=1e-10, atol=1e-14)
            assert grad == (mode is torch.enable_grad)
            assert inference == (mode is torch.inference_mode)

"""Blocks of both towers hold their attention and its gradient; inputs of any grid fit.

The reference is a tower written out by hand, whose attention autograd can differentiate.
"""

import copy
import gc
import pickle

import pytest
import torch
import torch.nn.functional as F

from conftest import noise
from model import fit_positions
from saliency import block_maps, relevance_maps
from small_clip import small_resnet, small_vit
from vit_cam import vit_block_vis, vit_relevance


@pytest.fixture
def model():
    return small_vit(vocab_size=100).double()


@pytest.fixture(params=["visual", "text"])
def tower(request, model):
    return Tower(model, request.param)


class Tower:
    """One of the two, with two inputs for it."""

    def __init__(self, model, name):
        self.visual = name == "visual"
        if self.visual:
            self.encode, self.transformer = model.encode_image, model.visual.transformer
            self.inputs = noise(2, 3, 24, 40)
            self.tokens = 1 + 3 * 5
        else:
            self.encode, self.transformer = model.encode_text, model.transformer
            self.inputs = torch.randint(1, 99, (2, 77), generator=torch.Generator().manual_seed(1))
            self.inputs[:, 70] = 99  # the end, which has the largest id
            self.tokens = 77
        self.model = model

    @property
    def blocks(self):
        return self.transformer.resblocks

    def by_hand(self):
        """Features, and the attention of each block [batch, head, token, token]."""
        model, attentions = self.model, []
        if self.visual:
            x = model.visual.embed(self.inputs)
        else:
            x = model.token_embedding(self.inputs) + model.positional_embedding
        for block in self.blocks:
            attention, x = block_by_hand(block, x, causal=not self.visual)
            attentions.append(attention)
        if self.visual:
            return layer_norm(model.visual.ln_post, x[:, 0]) @ model.visual.proj, attentions
        return layer_norm(model.ln_final, x[:, 70]) @ model.text_projection, attentions


def block_by_hand(block, x, causal):
    batch, tokens, width = x.shape
    projected = layer_norm(block.ln_1, x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    q, k, v = projected.reshape(batch, tokens, 3, width // 64, 64).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / 8
    if causal:
        scores = scores + torch.full((tokens, tokens), -torch.inf).triu(1)
    attention = scores.exp() / scores.exp().sum(-1, keepdim=True)
    mixed = (attention @ v).permute(0, 2, 1, 3).reshape(batch, tokens, width)
    x = x + mixed @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    hidden = layer_norm(block.ln_2, x) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
    hidden = hidden * (1.702 * hidden).sigmoid()
    return attention, x + hidden @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias


def layer_norm(module, x):
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return x * module.weight + module.bias


def objective(features):
    return F.cosine_similarity(features, noise(16)[None]).sum()


# Attention


def test_attention_and_gradient_are_those_of_the_network(tower):
    features = tower.encode(tower.inputs)
    objective(features).backward()
    expected, attentions = tower.by_hand()
    gradients = torch.autograd.grad(objective(expected), attentions)
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-10)
    for block, attention, gradient in zip(tower.blocks, attentions, gradients, strict=True):
        shape = (2 * 2, tower.tokens, tower.tokens)  # batch * heads
        assert block.attn_probs.shape == block.attn_grad.shape == shape
        assert gradient.abs().max() > 1e-6
        torch.testing.assert_close(block.attn_probs, attention.flatten(0, 1), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(block.attn_grad, gradient.flatten(0, 1), rtol=1e-8, atol=1e-14)


def test_attention_is_a_distribution_over_the_tokens_that_may_be_seen(tower):
    tower.encode(tower.inputs)
    for block in tower.blocks:
        sums = block.attn_probs.sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums))
        assert (block.attn_probs >= 0).all()
        ahead = block.attn_probs.triu(1)
        assert ahead.any() == tower.visual  # a text is read from left to right


def test_frozen_parameters_do_not_prevent_it(tower):
    objective(tower.encode(tower.inputs)).backward()
    expected = [block.attn_grad for block in tower.blocks]
    tower.model.requires_grad_(False)
    objective(tower.encode(tower.inputs)).backward()
    for block, gradient in zip(tower.blocks, expected, strict=True):
        torch.testing.assert_close(block.attn_grad, gradient, rtol=1e-9, atol=1e-15)


def test_a_new_forward_pass_forgets_the_old_gradient(tower):
    objective(tower.encode(tower.inputs)).backward()
    tower.encode(tower.inputs[:1])
    for block in tower.blocks:
        assert block.attn_probs.shape[0] == 2  # one input, two heads
        assert block.attn_grad is None


def test_nothing_is_recorded_without_gradients_or_in_training(tower):
    with torch.no_grad():
        tower.encode(tower.inputs)
    with torch.inference_mode():
        tower.encode(tower.inputs)
    tower.model.train()
    objective(tower.encode(tower.inputs)).backward()
    assert {block.attn_probs for block in tower.blocks} == {None}
    assert {block.attn_grad for block in tower.blocks} == {None}


def test_recording_does_not_change_the_features(tower):
    recorded = tower.encode(tower.inputs)
    with torch.no_grad():
        fused = tower.encode(tower.inputs)
    torch.testing.assert_close(recorded, fused, rtol=1e-10, atol=1e-10)


# Nothing is of an earlier pass


def assert_empty(blocks):
    assert all(block.attn_probs is None and block.attn_grad is None for block in blocks)


def in_training(tower):
    tower.model.train()
    tower.encode(tower.inputs)


FORWARD_PASSES = {
    "no_grad": lambda tower: torch.no_grad()(tower.encode)(tower.inputs),
    "inference_mode": lambda tower: torch.inference_mode()(tower.encode)(tower.inputs),
    "training": in_training,
}


@pytest.mark.parametrize("name", FORWARD_PASSES)
def test_a_forward_pass_that_does_not_record_empties_what_was_recorded(tower, name):
    objective(tower.encode(tower.inputs)).backward()
    FORWARD_PASSES[name](tower)
    assert_empty(tower.blocks)


EXPLANATIONS = {
    "last grad": lambda *given: relevance_maps(*given, "last grad"),
    "all grads": lambda *given: relevance_maps(*given, "all grads"),
    "block_maps": lambda *given: block_maps(*given, True),
    "vit_relevance": lambda model, *given: vit_relevance(*given, model, "cpu"),
    "vit_block_vis": lambda model, *given: vit_block_vis(*given, model, 1, "cpu"),
}


@pytest.mark.parametrize("name", EXPLANATIONS)
@pytest.mark.parametrize("hooked", [False, True], ids=["", "hooked"])
def test_so_does_an_explanation(model, name, hooked):
    if hooked:
        model.visual.ln_post.register_forward_hook(lambda *_: None)
    blocks = model.visual.transformer.resblocks
    objective(model.encode_image(noise(1, 3, 24, 40))).backward()
    EXPLANATIONS[name](model, noise(1, 3, 32, 32), noise(1, 16))
    assert_empty(blocks)


def test_a_backward_pass_that_comes_late_brings_nothing_back(model):
    features = model.encode_image(noise(1, 3, 32, 32))
    relevance_maps(model, noise(1, 3, 32, 32), noise(1, 16))
    objective(features).backward()
    assert_empty(model.visual.transformer.resblocks)


def test_a_backward_pass_leaves_the_gradient_of_a_later_forward_pass_alone(tower):
    features = tower.encode(tower.inputs)
    tower.encode(tower.inputs[:1])
    objective(features).backward()
    assert all(block.attn_grad is None for block in tower.blocks)


def test_both_can_be_emptied_by_hand(tower):
    objective(tower.encode(tower.inputs)).backward()
    for block in tower.blocks:
        block.attn_grad = None
        assert block.attn_probs is not None
        block.attn_probs = None
    assert_empty(tower.blocks)


# Attention is part of the graph while there is one


@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
def test_autograd_differentiates_at_the_attention_of_every_block(tower, frozen):
    expected, attentions = tower.by_hand()
    tower.model.requires_grad_(not frozen)
    score = objective(tower.encode(tower.inputs))
    gc.collect()
    gradients = torch.autograd.grad(objective(expected), attentions)
    for block, gradient in zip(tower.blocks, gradients, strict=True):
        (found,) = torch.autograd.grad(score, [block.attn_probs], retain_graph=True)
        torch.testing.assert_close(found, gradient.flatten(0, 1), rtol=1e-8, atol=1e-14)
    score.backward()
    for block, gradient in zip(tower.blocks, gradients, strict=True):
        torch.testing.assert_close(block.attn_grad, gradient.flatten(0, 1), rtol=1e-8, atol=1e-14)


def test_gradients_of_gradients_reach_it(tower):
    score = objective(tower.encode(tower.inputs))
    block = tower.blocks[0]
    (slope,) = torch.autograd.grad(score, [block.attn_probs], create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), [block.attn_probs])
    assert second.abs().max() > 0
    assert not block.attn_grad.requires_grad


def test_without_its_graph_attention_is_a_tensor_like_any_other(tower):
    features = tower.encode(tower.inputs)
    block = tower.blocks[0]
    attention = block.attn_probs
    assert attention.requires_grad
    held = attention.detach().clone()
    del features, attention
    assert not block.attn_probs.requires_grad
    assert torch.equal(block.attn_probs, held)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_a_model_is_copied_with_its_attention_but_without_the_graph(tower, duplicate):
    features = tower.encode(tower.inputs)
    objective(features).backward(retain_graph=True)
    blocks = [module for module in tower.model.modules() if hasattr(module, "attn_probs")]
    copies = [
        module for module in duplicate(tower.model).modules() if hasattr(module, "attn_probs")
    ]
    for block, other in zip(blocks, copies, strict=True):
        if block.attn_probs is None:
            assert other.attn_probs is None
        else:
            assert not other.attn_probs.requires_grad
            assert torch.equal(other.attn_probs, block.attn_probs)
            assert torch.equal(other.attn_grad, block.attn_grad)
    assert not [name for name in tower.model.state_dict() if "recorded" in name]


def test_attention_is_recorded_through_torch_compile(tower):
    objective(tower.encode(tower.inputs)).backward()
    expected = [(block.attn_probs, block.attn_grad) for block in tower.blocks]
    compiled = torch.compile(tower.encode, backend="eager")
    objective(compiled(tower.inputs)).backward()
    for block, (attention, gradient) in zip(tower.blocks, expected, strict=True):
        torch.testing.assert_close(block.attn_probs, attention, rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(block.attn_grad, gradient, rtol=1e-8, atol=1e-15)


# Grids


@pytest.mark.parametrize("build", [small_vit, small_resnet])
@torch.no_grad()
def test_input_of_the_native_size_never_touches_the_fitting(build, monkeypatch):
    model = build(vocab_size=100).double()
    side = model.visual.input_resolution
    images = noise(2, 3, side, side)
    expected = model.encode_image(images)
    monkeypatch.setattr("model.fit_positions", lambda positions, grid: positions)
    assert torch.equal(model.encode_image(images), expected)


@pytest.mark.parametrize("build", [small_vit, small_resnet])
@pytest.mark.parametrize("size", [(32, 96), (128, 64), (160, 160)])
@torch.no_grad()
def test_other_sizes_run(build, size):
    model = build(vocab_size=100)
    images = noise(2, 3, *size)
    features = model.encode_image(images)
    assert features.shape == (2, 16)
    assert features.isfinite().all()
    assert not torch.equal(features[0], features[1])


def test_native_positions_are_not_even_copied():
    positions = noise(17, 8)
    assert fit_positions(positions, (4, 4)) is positions
    assert fit_positions(positions, (2, 8)) is not positions  # as many cells, another shape


def test_fitted_positions_keep_rows_and_columns_apart():
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    native = torch.stack([row.flatten(), column.flatten()], 1)
    native = torch.cat([torch.tensor([[7.0, 8.0]]), native])
    fitted = fit_positions(native, (3, 5))
    assert torch.equal(fitted[0], native[0])  # CLS has no place on the grid
    rows, columns = fitted[1:].T.reshape(2, 3, 5)
    torch.testing.assert_close(rows, rows[:, :1].expand(3, 5))
    torch.testing.assert_close(columns, columns[:1].expand(3, 5))
    assert (rows[:, 0].diff() > 0).all()
    assert (columns[0].diff() > 0).all()

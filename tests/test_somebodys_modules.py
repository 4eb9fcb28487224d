"""Hooks, adapters and modules of other classes change maps as they change features.

The reference is plain autograd through the model as it then is: no method may take a way around.
"""

import copy
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import vit_oracles
from autograd_oracle import by_what_cls_reads
from checks import is_plain
from clip_ import load
from conftest import noise
from methods import METHODS
from model import CLIP, ResidualAttentionBlock, VisionTransformer
from recording.encoders import Encoder
from saliency import block_maps, methods, relevance_maps
from small_clip import small_resnet
from vit_oracles import OF_PAIRS, ORACLES, cosine, oracle_map

OF_ANYBODY = [name for name in ORACLES if not METHODS[name].ours_alone]
every_method = pytest.mark.parametrize("method", OF_ANYBODY)
PLACES = {
    "the first block": lambda visual: visual.transformer.resblocks[0],
    "the last block": lambda visual: visual.transformer.resblocks[-1],
    "attention": lambda visual: visual.transformer.resblocks[1].attn,
    "an output projection": lambda visual: visual.transformer.resblocks[3].attn.out_proj,
    "a normalisation before attention": lambda visual: visual.transformer.resblocks[3].ln_1,
    "a normalisation before the MLP": lambda visual: visual.transformer.resblocks[1].ln_2,
    "an MLP": lambda visual: visual.transformer.resblocks[3].mlp,
    "a layer of an MLP": lambda visual: visual.transformer.resblocks[0].mlp.c_fc,
    "the convolution": lambda visual: visual.conv1,
    "the first normalisation": lambda visual: visual.ln_pre,
    "the last normalisation": lambda visual: visual.ln_post,
    "the transformer": lambda visual: visual.transformer,
    "the encoder": lambda visual: visual,
}


class Adapter(nn.Module):
    """A layer with a low-rank addition, as LoRA replaces layers."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base_layer, self.in_features = base, base.in_features
        self.down, self.up = noise(2, base.in_features), noise(base.out_features, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + 0.1 * x @ self.down.T @ self.up.T


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).roll(1, -1)


class OtherBlock(ResidualAttentionBlock):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - 0.5 * x


class OtherEncoder(VisionTransformer):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).tanh()


class Permuted(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.roll(1, 0)


def replace_forward(module: nn.Module) -> None:
    forward = module.forward
    module.forward = lambda *inputs: forward(*inputs).roll(1, -1)


def replace_block(visual: VisionTransformer, change: Callable) -> None:
    visual.transformer.resblocks[2] = change(visual.transformer.resblocks[2])


def give_class(module: nn.Module, kind: type) -> None:
    module.__class__ = kind


def at_places(change: Callable[[nn.Module], None]) -> dict:
    return {place: lambda visual, find=find: change(find(visual)) for place, find in PLACES.items()}


def rolled(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
    return output.roll(1, -1)


def rolled_before(_module: nn.Module, inputs: tuple) -> tuple:
    return inputs[0].roll(1, -1), *inputs[1:]


CHANGES = {
    **{
        f"hook on {place}": change
        for place, change in at_places(lambda m: m.register_forward_hook(rolled)).items()
    },
    **{
        f"pre-hook on {place}": change
        for place, change in at_places(lambda m: m.register_forward_pre_hook(rolled_before)).items()
    },
    **{f"forward of {place}": change for place, change in at_places(replace_forward).items()},
    "a block switched off": lambda visual: visual.transformer.resblocks[2].register_forward_hook(
        lambda module, inputs, output: inputs[0]
    ),
    "a block of another class": lambda visual: give_class(
        visual.transformer.resblocks[2], OtherBlock
    ),
    "an encoder of another class": lambda visual: give_class(visual, OtherEncoder),
    "a wrapped block": lambda visual: replace_block(visual, Wrapped),
    "a wrapped transformer": lambda visual: setattr(
        visual, "transformer", Wrapped(visual.transformer)
    ),
    "LoRA on an output projection": lambda visual: setattr(
        visual.transformer.resblocks[3].attn,
        "out_proj",
        Adapter(visual.transformer.resblocks[3].attn.out_proj),
    ),
    "LoRA on an MLP": lambda visual: setattr(
        visual.transformer.resblocks[1].mlp,
        "c_fc",
        Adapter(visual.transformer.resblocks[1].mlp.c_fc),
    ),
    "a parametrisation of queries, keys and values": lambda visual: (
        parametrize.register_parametrization(
            visual.transformer.resblocks[3].attn, "in_proj_weight", Permuted()
        )
    ),
    "a parametrisation of the last projection": lambda visual: parametrize.register_parametrization(
        visual, "proj", Permuted()
    ),
    "a gradient that is changed on the way back": lambda visual: visual.transformer.resblocks[
        2
    ].register_full_backward_hook(lambda module, inputs, outputs: (inputs[0].roll(1, -1),)),
}


def recorded_blocks(visual: nn.Module, image: Tensor, target: Tensor) -> list:
    """As in `vit_oracles`, wherever the blocks are; no gradient is one of zeros."""
    cosine(target)(visual(image.unsqueeze(0))).backward()
    visual.zero_grad()
    blocks = [block for block in visual.modules() if isinstance(block, ResidualAttentionBlock)]
    return [
        (
            block.attn_probs,
            torch.zeros_like(block.attn_probs) if block.attn_grad is None else block.attn_grad,
        )
        for block in blocks
    ]


def changed(visual: VisionTransformer, change: str) -> VisionTransformer:
    visual = copy.deepcopy(visual)
    CHANGES[change](visual)
    return visual


@pytest.fixture(scope="module")
def before(clip, images, targets):
    return {method: relevance_maps(clip, images, targets, method) for method in OF_ANYBODY}


@pytest.mark.parametrize("change", CHANGES)
def test_maps_are_those_of_the_model_as_it_runs(visual, images, targets, before, change):
    other = changed(visual, change)
    assert not is_plain(other)
    blocks = [[recorded_blocks(other, image, target) for target in targets] for image in images]
    for method in OF_PAIRS:
        maps = relevance_maps(other, images, targets, method)
        if "on the way back" not in change or method == "all grads":
            assert not torch.allclose(maps, before[method], rtol=1e-3, atol=0)
        for i, k in itertools.product(range(2), range(3)):
            expected = OF_PAIRS[method](blocks[i][k])[1:].reshape(4, 4)
            torch.testing.assert_close(maps[i, k], expected, rtol=1e-8, atol=1e-14)


# Blocks that do more to the stream than to add to it.
NOT_ADDING = [
    "hook on the first block",
    "pre-hook on the last block",
    "a block of another class",
    "a wrapped block",
    "forward of the first block",
    "forward of the last block",
    "a block switched off",
    "a gradient that is changed on the way back",
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("method", ["direct", "direct signed", "path"])
def test_what_cls_reads_is_that_of_the_model_as_it_runs(
    visual, images, targets, monkeypatch, method, change
):
    other = changed(visual, change)
    if method != "path" and change in NOT_ADDING:
        with pytest.raises(ValueError, match="need blocks that add to the stream"):
            relevance_maps(other, images, targets, method)
        return
    monkeypatch.setattr("model.is_recording", lambda _: False)  # blocks call the fused kernel
    expected = by_what_cls_reads(other, other, images, targets, method)
    maps = relevance_maps(other, images, targets, method)
    expected = expected[..., 1:].unflatten(-1, (4, 4))
    torch.testing.assert_close(maps, expected, rtol=1e-8, atol=1e-14)


@every_method
def test_frozen_models_as_well(visual, images, targets, method):
    other = changed(visual, "LoRA on an MLP")
    maps = relevance_maps(other, images, targets, method)
    frozen = relevance_maps(other.requires_grad_(False), images, targets, method)
    torch.testing.assert_close(frozen, maps, rtol=1e-9, atol=1e-15)


@every_method
def test_a_hook_on_all_modules_counts_too(visual, images, targets, method):
    def on_normalisations(module, inputs, output):
        return output.roll(1, -1) if isinstance(module, nn.LayerNorm) else None

    before = relevance_maps(visual, images, targets, method)
    handle = nn.modules.module.register_module_forward_hook(on_normalisations)
    try:
        maps = relevance_maps(visual, images, targets, method)
        blocks = recorded_blocks(visual, images[0], targets[0])
    finally:
        handle.remove()
    if method in OF_PAIRS:
        expected = OF_PAIRS[method](blocks)[1:].reshape(4, 4)
        torch.testing.assert_close(maps[0, 0], expected, rtol=1e-8, atol=1e-14)
    assert not torch.allclose(maps, before, rtol=1e-3)


@every_method
@pytest.mark.parametrize("start_block", [1, -1])
def test_hooks_that_only_look_change_nothing(visual, images, targets, method, start_block):
    negative = METHODS[method].of_targets
    expected = relevance_maps(
        visual, images, targets, method, negative=negative, start_block=start_block
    )
    shapes = []
    for place in PLACES.values():
        place(visual).register_forward_hook(lambda m, i, output: shapes.append(output.shape))
    maps = relevance_maps(
        visual, images, targets, method, negative=negative, start_block=start_block
    )
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-15)
    assert len(shapes) >= len(PLACES)


@pytest.mark.parametrize("grad", [False, True])
def test_block_maps_are_those_of_the_model_as_it_runs(visual, images, targets, grad):
    other = changed(visual, "a wrapped block")
    maps = block_maps(other, images, targets, grad, start_block=1)
    blocks = recorded_blocks(other, images[1], targets[2])
    for block, found in zip(blocks[1:], maps[:, 1, 2], strict=True):
        expected = block[grad].mean(0)[0, 1:].reshape(4, 4)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-14)


def test_a_last_block_that_is_switched_off_has_no_gradient(visual, images, targets):
    off = visual.transformer.resblocks[3].register_forward_hook(lambda m, inputs, output: inputs[0])
    blocks = recorded_blocks(visual, images[0], targets[0])
    expected = OF_PAIRS["all grads"](blocks)[1:].reshape(4, 4)
    maps = relevance_maps(visual, images, targets, "all grads")
    torch.testing.assert_close(maps[0, 0], expected, rtol=1e-8, atol=1e-14)
    for method in ("last grad", "gradcam"):
        with pytest.raises(ValueError, match="attention of the last block"):
            relevance_maps(visual, images, targets, method)
    off.remove()


@every_method
def test_blocks_may_stand_in_another_transformer(visual, images, targets, method):
    expected = relevance_maps(visual, images, targets, method)
    visual.transformer = nn.Sequential(*visual.transformer.resblocks)
    maps = relevance_maps(visual, images, targets, method)
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-15)


class Adapted(CLIP):
    """A CLIP with an adapter behind its image encoder."""

    def encode_image(self, image: Tensor) -> Tensor:
        return super().encode_image(image).roll(1, -1).tanh()


@every_method
def test_a_clip_that_encodes_images_in_its_own_way(clip, images, targets, method):
    other = copy.deepcopy(clip)
    give_class(other, Adapted)
    maps = relevance_maps(other, images, targets, method)
    other.visual.register_forward_hook(lambda m, i, output: output.roll(1, -1).tanh())
    expected = relevance_maps(other.visual, images, targets, method)
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-15)


def test_training_mode_changes_nothing_where_nothing_is_drawn(visual, images, targets):
    other = changed(visual, "a wrapped block")
    maps = relevance_maps(other, images, targets, "all grads")
    assert torch.equal(relevance_maps(other.train(), images, targets, "all grads"), maps)


def test_the_model_is_left_as_it_was(visual, images, targets):
    other = changed(visual, "hook on the last block").train()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    for method in OF_ANYBODY:
        relevance_maps(other, images, targets, method)
    assert other.training
    assert all(parameter.grad is None for parameter in other.parameters())
    assert len(other.transformer.resblocks[-1]._forward_hooks) == 1
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    assert all(block.attn_probs is None for block in other.transformer.resblocks)


@every_method
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_middle_leaves_it_recording_as_before(
    visual, images, targets, method, error
):
    def fail(*_):
        raise error("in the middle")

    handle = visual.transformer.resblocks[2].register_forward_hook(fail)
    with pytest.raises(error, match="in the middle"):
        relevance_maps(visual, images, targets, method)
    handle.remove()
    cosine(targets[0])(visual(images)).backward()
    assert all(block.attn_grad.isfinite().all() for block in visual.transformer.resblocks)


def test_threads_read_each_their_own_attention(visual):
    other = changed(visual, "hook on the last block")
    many, target = noise(8, 1, 3, 32, 32), noise(1, 16)
    expected = [relevance_maps(other, image, target, "all grads") for image in many]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: relevance_maps(other, i, target, "all grads"), many))
    for result, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(result, reference, rtol=1e-10, atol=1e-14)


def in_place(visual):
    for block in visual.transformer.resblocks:
        give_class(block, InPlace)


def of_several_blocks(visual):
    give_class(visual, OfSeveralBlocks)


class InPlace(ResidualAttentionBlock):
    """A block that changes the tensor it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(1.1))


class OfSeveralBlocks(VisionTransformer):
    """Features of CLS after the last block and after the second."""

    def forward(self, images: Tensor) -> Tensor:
        tokens = [self.embed(images)]
        for block in self.transformer.resblocks:
            tokens.append(block(tokens[-1]))
        return self.project(tokens[-1][:, 0] + tokens[2][:, 0])


@pytest.mark.parametrize("method", OF_PAIRS)
@pytest.mark.parametrize("change", [in_place, of_several_blocks])
def test_networks_that_only_whole_runs_read(visual, images, targets, method, change):
    change(visual)
    maps = relevance_maps(visual, images, targets, method)
    blocks = recorded_blocks(visual, images[0], targets[0])
    expected = OF_PAIRS[method](blocks)[1:].reshape(4, 4)
    torch.testing.assert_close(maps[0, 0], expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("method", ["direct", "path", "LeGrad", "MaskCLIP", "CLIP Surgery"])
def test_blocks_that_work_in_place_are_refused_where_they_run_again(
    visual, images, targets, method
):
    in_place(visual)
    with pytest.raises(ValueError, match=r"do not do the same twice|do nothing else to it"):
        relevance_maps(visual, images, targets, method)


@pytest.mark.parametrize("method", ["direct", "direct signed"])
def test_direct_reads_the_end_of_the_last_block(visual, images, targets, method):
    of_several_blocks(visual)
    with pytest.raises(ValueError, match="read from earlier blocks too: path takes it"):
        relevance_maps(visual, images, targets, method)


@pytest.mark.parametrize("method", ["last grad", "gradcam"])
def test_features_that_are_not_the_same_twice(visual, images, targets, method):
    visual.register_forward_hook(lambda m, i, output: output + torch.randn_like(output))
    with pytest.raises(ValueError, match="not give the same features twice"):
        relevance_maps(visual, images, targets, method)


# What cannot be read is refused


class OwnAttention(nn.Module):
    """A block that computes attention by itself."""

    def __init__(self, _block: nn.Module):
        super().__init__()
        self.attention = nn.MultiheadAttention(128, 2, batch_first=True, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x)[0]


class Twice(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.inner(x))


class WithDropout(Wrapped):
    def __init__(self, inner: nn.Module):
        super().__init__(inner)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.inner(x))


def drop_tokens(visual: VisionTransformer) -> None:
    visual.transformer.resblocks[1].register_forward_hook(lambda m, i, output: output[:, :9])


REFUSED = {
    "no attention": (lambda v: replace_block(v, lambda _: nn.Identity()), "block 2 does not"),
    "attention twice": (lambda v: replace_block(v, Twice), "once"),
    "fewer tokens": (drop_tokens, "block 2 .* 9 tokens .* 17 tokens"),
    "no gradient": (
        lambda v: v.register_forward_hook(lambda m, i, output: output.detach()),
        "do not depend on the attention",
    ),
}


@every_method
@pytest.mark.parametrize("case", REFUSED)
def test_where_attention_cannot_be_read_there_is_no_map(visual, images, targets, method, case):
    change, message = REFUSED[case]
    change(visual)
    if case == "no gradient" and method in ("MaskCLIP", "SCLIP", "CLIP Surgery"):
        relevance_maps(visual, images, targets, method)  # which ask for none
        return
    with pytest.raises(ValueError, match=message):
        relevance_maps(visual, images, targets, method)
    with torch.no_grad():
        visual(images)  # still runs, and is not recorded


@every_method
def test_dropout_is_explained_as_in_evaluation_mode(visual, images, targets, method):
    replace_block(visual, WithDropout)
    maps = relevance_maps(visual.train(), images, targets, method)
    assert visual.training
    assert torch.equal(relevance_maps(visual.eval(), images, targets, method), maps)


@every_method
def test_what_an_encoder_does_around_a_network_counts(visual, images, targets, method):
    around = Encoder(visual, lambda pictures: visual(pictures).roll(1, -1))
    maps = relevance_maps(around, images, targets, method)
    expected = relevance_maps(visual, images, targets.roll(-1, -1), method)
    torch.testing.assert_close(maps, expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("method", ["GradCAM", "LayerCAM", "occlusion", None])
def test_around_a_resnet_too(targets, method):
    visual, images = small_resnet(vocab_size=100).double().visual, noise(2, 3, 64, 64)
    around = Encoder(visual, lambda pictures: visual(pictures).roll(1, -1))
    maps = relevance_maps(around, images, targets, method)
    expected = relevance_maps(visual, images, targets.roll(-1, -1), method or "GradCAM")
    torch.testing.assert_close(maps, expected, rtol=1e-8, atol=1e-14)
    with pytest.raises(ValueError, match="unknown method 'pool'"):
        relevance_maps(around, images, targets, "pool")


# What is plain


@every_method
def test_what_torch_compile_returns_is_explained_as_its_module(visual, images, targets, method):
    expected = relevance_maps(visual, images, targets, method)
    compiled = torch.compile(visual, backend="eager")
    assert torch.equal(relevance_maps(compiled, images, targets, method), expected)
    blocks = visual.transformer.resblocks
    for index, block in enumerate(blocks):
        blocks[index] = torch.compile(block, backend="eager")
    assert torch.equal(relevance_maps(visual, images, targets, method), expected)


@every_method
def test_a_model_may_have_lost_its_last_blocks(visual, images, targets, method):
    visual.transformer.resblocks = visual.transformer.resblocks[:3]
    maps = relevance_maps(visual, images, targets, method, start_block=-3)
    blocks = vit_oracles.recorded_blocks(visual, images[0], cosine(targets[0]))
    expected = oracle_map(method, blocks, (4, 4))
    torch.testing.assert_close(maps[0, 0], expected, rtol=1e-8, atol=1e-14)


def test_our_networks_are_plain_and_their_shortcuts_are_taken(visual, images, targets, monkeypatch):
    assert is_plain(visual)
    monkeypatch.setattr(VisionTransformer, "__call__", None)
    relevance_maps(visual, images, targets)


def test_the_first_method_of_a_changed_vit_is_its_default():
    visual = load("ViT-emoji", "cpu")[0].visual
    assert next(iter(methods(visual))) == "direct"
    visual.transformer.resblocks[2].register_forward_hook(lambda block, given, found: 1.1 * found)
    assert next(iter(methods(visual))) == "path"
    images, targets = torch.randn(1, 3, 64, 64), torch.randn(2, visual.output_dim)
    by_name = relevance_maps(visual, images, targets, "path")
    assert torch.equal(relevance_maps(visual, images, targets), by_name)

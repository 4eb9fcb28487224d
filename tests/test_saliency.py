"""Every method of the table computes its definition, and depends on nothing else.

The reference is plain autograd in float64: whole attention matrices, one image and one target at a
time (`vit_oracles.py`). A method that is added to the table needs its definition there.
"""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

import methods
from conftest import noise
from methods import MASKING, METHODS
from methods.published import feature_surgery
from model import convert_weights
from recording import pairs_at_once
from recording.encoders import encoder_of
from saliency import block_maps, direction_maps, normalise_maps, relevance_maps, resize_maps
from vit_oracles import OF_TARGETS, ORACLES, cosine, oracle_map, recorded_blocks

every_method = pytest.mark.parametrize("method", ORACLES)
every_method_of_targets = pytest.mark.parametrize("method", OF_TARGETS)


def relative_error(result: torch.Tensor, reference: torch.Tensor) -> float:
    assert result.shape == reference.shape
    return ((result - reference).abs().max() / reference.abs().max().clamp_min(1e-12)).item()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_definition_to_be_tested_against(method):
    assert (method in ORACLES) != (method in MASKING), (
        f"add a plain definition of {method!r} to tests/vit_oracles.py (or to test_masks.py)"
    )


# The definitions


@pytest.fixture(scope="module", params=[(4, 4), (3, 5)], ids=["square", "oblong"])
def grid(request):
    return request.param


@pytest.fixture(scope="module", params=[False, True], ids=["positive", "negative"])
def negative(request):
    return request.param


@pytest.fixture(scope="module")
def on_grid(grid):
    return noise(2, 3, 8 * grid[0], 8 * grid[1])


@pytest.fixture(scope="module")
def blocks(clip, on_grid, targets, negative):
    """What the blocks hold for each image and target."""
    visual = copy.deepcopy(clip.visual)
    return [
        [recorded_blocks(visual, image, cosine(target, negative)) for target in targets]
        for image in on_grid
    ]


@every_method
@pytest.mark.parametrize("start_block", [0, 2, -1])
def test_maps_are_the_definition_of_their_method(
    visual, on_grid, targets, blocks, grid, negative, method, start_block
):
    maps = relevance_maps(
        visual,
        on_grid,
        targets,
        method,
        negative=negative and METHODS[method].of_targets,
        start_block=start_block,
    )
    assert maps.shape == (2, 3, *grid)
    assert maps.dtype == torch.float64
    assert maps.flatten(2).std(-1).max() > 1e-6
    for i in range(2):
        for k in range(3):
            expected = oracle_map(method, blocks[i][k][start_block:], grid)
            assert relative_error(maps[i, k], expected) < 1e-9


@every_method
def test_each_image_may_have_targets_of_its_own(visual, images, method):
    own = noise(2, 3, 16)
    maps = relevance_maps(visual, images, own, method)
    for image, its_targets, its_maps in zip(images, own, maps, strict=True):
        for target, result in zip(its_targets, its_maps, strict=True):
            blocks = recorded_blocks(visual, image, cosine(target))
            assert relative_error(result, oracle_map(method, blocks, (4, 4))) < 1e-9


def test_last_grad_is_its_closed_form(visual, on_grid, targets, blocks, grid, negative):
    maps = relevance_maps(visual, on_grid, targets, "last grad", negative=negative)
    for i in range(2):
        for k in range(3):
            gradient = blocks[i][k][-1][1][:, 0]  # that of the CLS row, [head, token]
            rows = [(gradient * one.attention[:, 0]).relu().mean(0) for one in blocks[i][k]]
            expected, weight = torch.zeros_like(rows[0]), 1
            for row in reversed(rows):
                expected = expected + weight * row
                weight = weight * (1 + row[0])
            assert relative_error(maps[i, k], expected[1:].reshape(grid)) < 1e-9


@every_method
def test_a_difference_of_unit_targets_explains_the_difference_of_cosines(
    visual, images, targets, method
):
    first, second = F.normalize(targets[:2], dim=-1)
    maps = direction_maps(visual, images, (first - second).unsqueeze(0), method)
    for image, result in zip(images, maps[:, 0], strict=True):
        blocks = recorded_blocks(
            visual, image, lambda features: cosine(first)(features) - cosine(second)(features)
        )
        assert relative_error(result, oracle_map(method, blocks, (4, 4))) < 1e-9


# What maps depend on


@every_method
def test_the_length_of_targets_does_not_matter(visual, images, targets, method):
    maps = relevance_maps(visual, images, targets, method)
    scaled = relevance_maps(visual, images, 1e-3 * targets, method)
    assert relative_error(scaled, maps) < 1e-12


@every_method
@pytest.mark.parametrize(
    ("dtype", "length"),
    [
        (torch.float32, 1e20),
        (torch.float32, 1e-24),
        (torch.float32, 1e-40),
        (torch.bfloat16, 1e30),
        (torch.float64, 1e200),
        (torch.float64, 1e-200),
    ],
)
def test_not_even_where_squares_overflow_or_vanish(visual, images, targets, method, dtype, length):
    extreme = (length * F.normalize(targets, dim=-1)).to(dtype)
    expected = relevance_maps(visual, images, extreme.double() / length, method)
    assert relative_error(relevance_maps(visual, images, extreme, method), expected) < 1e-6


@every_method_of_targets
@pytest.mark.parametrize("scale", [100.0, torch.tensor(7.5, requires_grad=True)])
def test_a_scale_multiplies_the_cosine(visual, images, targets, method, scale):
    maps = relevance_maps(visual, images, targets, method, negative=True, scale=scale)
    for i, k in itertools.product(range(2), range(3)):
        blocks = recorded_blocks(
            visual, images[i], lambda features, k=k: scale * cosine(targets[k], True)(features)
        )
        assert relative_error(maps[i, k], oracle_map(method, blocks, (4, 4))) < 1e-9


@pytest.mark.parametrize("method", [name for name in ORACLES if name not in OF_TARGETS])
@pytest.mark.parametrize("options", [{"negative": True}, {"scale": 2.0}])
def test_what_is_the_same_for_all_targets_has_no_sign_and_no_scale(visual, images, method, options):
    with pytest.raises(ValueError, match=f"{method} is the same for all targets, so negative and"):
        relevance_maps(visual, images, noise(3, 16), method, **options)
    maps = relevance_maps(visual, images, noise(3, 16), method)
    assert torch.equal(maps, maps[:, :1].expand(-1, 3, -1, -1))


@every_method
def test_a_map_depends_on_its_own_image_and_target_alone(visual, images, targets, method):
    maps = relevance_maps(visual, images, targets, method)
    for i in range(2):
        for k in range(3):
            alone = relevance_maps(visual, images[i : i + 1], targets[k : k + 1], method)
            assert relative_error(alone[0, 0], maps[i, k]) < 1e-12


@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_maps_are_the_same_however_few_pairs_are_taken_at_once(visual, monkeypatch, pairs):
    images, own = noise(3, 3, 32, 32), noise(3, 3, 16)
    whole = relevance_maps(visual, images, own, "all grads")
    monkeypatch.setattr(methods, "pairs_at_once", lambda *_: pairs)
    assert relative_error(relevance_maps(visual, images, own, "all grads"), whole) < 1e-12


def test_matrices_taken_at_once_are_bounded(visual):
    images = noise(2, 3, 32, 32)
    pair = 8 * visual.transformer.resblocks[0].attn.heads * 17**2
    most = pairs_at_once(encoder_of(visual), images) * pair
    assert 2**24 - pair < most <= 2**24


def test_direct_is_the_default_and_a_whole_clip_stands_for_its_encoder(clip, images, targets):
    maps = relevance_maps(clip, images, targets)
    assert torch.equal(maps, relevance_maps(clip.visual, images, targets, "direct"))


# Dtypes and modes


@every_method
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 0.01), (torch.bfloat16, 0.1)]
)
def test_lower_precisions_are_close(visual, images, targets, method, dtype, tolerance):
    expected = relevance_maps(visual, images, targets, method)
    lower = convert_weights(visual, dtype)
    maps = relevance_maps(lower, images.to(dtype), targets.to(dtype), method)
    assert maps.dtype == torch.float32
    assert relative_error(maps.double(), expected) < tolerance


@every_method
def test_modes_of_the_caller_and_of_the_model_make_no_difference(visual, images, targets, method):
    expected = relevance_maps(visual, images, targets, method)

    def assert_same_maps() -> None:
        maps = relevance_maps(visual, images.clone(), targets.clone(), method)
        assert relative_error(maps, expected) < 1e-12
        assert not maps.requires_grad

    with torch.no_grad():
        assert_same_maps()
    with torch.inference_mode():
        assert_same_maps()
    visual.train()
    assert_same_maps()
    visual.requires_grad_(False)
    assert_same_maps()
    images, targets = images.clone().requires_grad_(), targets.clone().requires_grad_()
    assert_same_maps()


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_casts_nothing(visual, images, targets, method, dtype):
    visual.to(dtype)
    expected = relevance_maps(visual, images, targets, method)
    of_blocks = block_maps(visual, images, targets, True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = relevance_maps(visual, images, targets, method)
        assert torch.equal(block_maps(visual, images, targets, True), of_blocks)
    assert maps.dtype == dtype
    assert torch.equal(maps, expected)


@every_method
def test_neither_does_another_default_dtype(visual, images, targets, method):
    visual.float()
    expected = relevance_maps(visual, images, targets, method)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(relevance_maps(visual, images, targets, method), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@every_method
def test_detecting_anomalies_makes_no_difference(visual, images, targets, method):
    expected = relevance_maps(visual, images, targets, method)
    of_blocks = block_maps(visual, images, targets, True)
    with torch.autograd.set_detect_anomaly(True):
        maps = relevance_maps(visual, images, targets, method)
        torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-15)
        again = block_maps(visual, images, targets, True)
        torch.testing.assert_close(again, of_blocks, rtol=1e-9, atol=1e-15)


# The steps after


def test_normalised_maps_reach_from_0_to_1():
    maps = normalise_maps(noise(2, 3, 4, 5) * 7 - 3)
    assert torch.equal(maps.amin((-2, -1)), torch.zeros(2, 3, dtype=maps.dtype))
    assert torch.equal(maps.amax((-2, -1)), torch.ones(2, 3, dtype=maps.dtype))


def test_normalising_keeps_the_order_of_cells_and_treats_each_map_apart():
    maps = noise(2, 3, 4, 5)
    maps[0, 0] *= 1e6
    order = normalise_maps(maps).flatten(2).argsort()
    assert torch.equal(order, maps.flatten(2).argsort())


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_a_flat_map_becomes_zero(value):
    flat = torch.full((1, 1, 4, 4), value)
    assert torch.equal(normalise_maps(flat), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (7, 5), (4, 4), (1, 1)])
def test_maps_are_resized_bilinearly(size):
    maps = noise(2, 3, 4, 4)
    expected = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    assert torch.equal(resize_maps(maps, size), expected)
    assert torch.equal(resize_maps(maps, torch.Size(size)), expected)


# One block at a time


@pytest.mark.parametrize("grad", [False, True])
def test_block_maps_are_what_the_blocks_hold(clip, images, targets, grad):
    maps = block_maps(clip, images, targets, grad)
    assert maps.shape == (4, 2, 3, 4, 4)
    visual = copy.deepcopy(clip.visual)
    for i, image in enumerate(images):
        for k, target in enumerate(targets):
            for block, held in enumerate(recorded_blocks(visual, image, cosine(target, False))):
                expected = held[grad].mean(0)[0, 1:].reshape(4, 4)
                assert relative_error(maps[block, i, k], expected) < 1e-9


def test_block_maps_of_dissimilarity_are_negated_gradients(clip, images, targets):
    maps = block_maps(clip, images, targets, True)
    torch.testing.assert_close(block_maps(clip, images, targets, True, negative=True), -maps)


def test_block_maps_start_at_a_block(clip, images, targets):
    maps = block_maps(clip, images, targets, True)
    torch.testing.assert_close(block_maps(clip, images, targets, True, start_block=-2), maps[2:])


# Against other texts


@every_method_of_targets
def test_against_others_is_the_direction_away_from_their_mean(visual, images, targets, method):
    others = noise(5, 16)
    found = relevance_maps(visual, images, targets, method, against=others)
    unit, mean = F.normalize(targets, dim=-1), F.normalize(others, dim=-1).mean(0)
    expected = direction_maps(visual, images, unit - mean, method)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    own = relevance_maps(visual, images, targets, method, against=others.expand(2, -1, -1))
    torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-12)


def test_methods_that_add_up_relevance_give_the_difference_of_maps(visual, images, targets):
    """Signed relevance is linear in the direction, if it is not divided by anything."""
    maps = relevance_maps(visual, images, targets, "direct signed", against=targets)
    each = relevance_maps(visual, images, targets, "direct signed")
    torch.testing.assert_close(maps, each - each.mean(1, keepdim=True))


def test_a_target_alone_is_nothing_against_itself(visual, images, targets):
    with pytest.raises(ValueError, match="is the mean of what it is explained against"):
        relevance_maps(visual, images, targets[:1], against=5 * targets[:1])


@pytest.mark.parametrize("method", [name for name in ORACLES if name not in OF_TARGETS])
def test_methods_without_a_target_are_against_nothing(visual, images, targets, method):
    with pytest.raises(ValueError, match="same for all targets, whatever they are against"):
        relevance_maps(visual, images, targets, method, against=targets)


@pytest.mark.parametrize(
    ("others", "message"),
    [(noise(2, 15), "width|16"), (torch.zeros(1, 16), "all zero"), (noise(0, 16), "at least one")],
)
def test_what_a_target_is_against_is_checked_as_targets_are(
    visual, images, targets, others, message
):
    with pytest.raises(ValueError, match=message):
        relevance_maps(visual, images, targets, against=others)


def test_feature_surgery_takes_away_what_texts_have_in_common(visual, images, targets):
    with torch.no_grad():
        features = visual(images)
    found = feature_surgery(features, targets)
    f, t = F.normalize(features, dim=-1), F.normalize(targets, dim=-1)
    for i in range(2):
        odds = [math.exp(2 * float(f[i] @ one)) for one in t]
        weighted = [w * 3 / sum(odds) * one for w, one in zip(odds, t, strict=True)]
        for k in range(3):
            torch.testing.assert_close(found[i, k], weighted[k] - sum(weighted) / 3)
    direction_maps(visual, images, found, "CLIP Surgery")

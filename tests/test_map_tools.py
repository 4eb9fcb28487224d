"""Masks, boxes and enlarged maps: as plain loops, closed forms and known scenes say."""

import cv2
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from embedded.scenes import draw_scene
from evaluation.scene_sets import as_batch
from image_utils import cut_as_picture
from map_tools import Box, around, boxes, guided, masks, on_picture, upsample
from maps import resize_maps
from preprocessing import Preprocessing

SIZE = (12, 16)


def spots(*areas, size=SIZE):
    """A map of rectangles (rows, columns, value) on zero."""
    found = torch.zeros(size)
    for rows, columns, value in areas:
        found[rows, columns] = value
    return found


ONE = (slice(2, 5), slice(3, 7), 1.0)
OTHER = (slice(8, 11), slice(10, 15), 3.0)


# Masks and boxes


def test_boxes_are_those_of_the_parts_the_most_relevant_first():
    found = boxes(spots(ONE, OTHER), SIZE, share=0.9)
    assert [tuple(box[:4]) for box in found] == [(10, 8, 15, 11), (3, 2, 7, 5)]
    assert [box.score for box in found] == pytest.approx([45 / 57, 12 / 57])


def test_masks_are_the_parts_in_the_order_of_their_boxes():
    relevance = spots(ONE, OTHER)
    found = masks(relevance, SIZE, share=0.9)
    assert found.dtype == bool
    assert found.shape == (2, *SIZE)
    assert np.array_equal(found[0], relevance.numpy() == 3)
    assert np.array_equal(found[1], relevance.numpy() == 1)
    for mask, box in zip(found, boxes(relevance, SIZE, share=0.9), strict=True):
        assert mask[box.top : box.bottom, box.left : box.right].sum() == mask.sum()


def test_parts_that_touch_at_a_corner_are_one():
    relevance = spots((slice(2, 4), slice(2, 4), 1.0), (slice(4, 6), slice(4, 6), 1.0))
    (box,) = boxes(relevance, SIZE)
    assert box[:4] == (2, 2, 6, 6)


def test_a_share_takes_the_fewest_pixels_that_hold_it_and_all_that_equal_the_last():
    relevance = torch.tensor([[8.0, 0, 4], [0, 0, 0], [4, 0, 1]])
    count = [masks(relevance, (3, 3), share=share).sum() for share in (0.4, 0.5, 0.9, 0.99)]
    assert count == [1, 3, 3, 4]  # 8 of 17; 8 and both 4; 16 of 17; all


def test_the_threshold_is_otsus():
    values = np.random.default_rng(0).gamma(2, size=(12, 16)) ** 2
    levels = np.round((values - values.min()) / np.ptp(values) * 255)

    def between(threshold):  # the variance between both sides, which is the largest there
        low, high = levels[levels <= threshold], levels[levels > threshold]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    best = max(range(255), key=between)
    assert np.array_equal(masks(values, SIZE).any(0), levels > best)


def test_a_map_on_its_grid_is_enlarged_to_the_picture():
    grid = torch.zeros(3, 4)
    grid[1, 2] = 1
    large = resize_maps(grid[None, None], (48, 64))[0, 0]
    assert boxes(grid, (48, 64)) == boxes(large, (48, 64))
    (box,) = boxes(grid, (48, 64))
    assert box.left < 40 < box.right
    assert box.top < 24 < box.bottom
    assert box.right <= 64


def test_what_speaks_against_the_target_is_left_out():
    signed = spots(ONE) - spots(OTHER)
    assert boxes(signed, SIZE) == boxes(spots(ONE), SIZE)
    assert [box[:4] for box in boxes(signed, SIZE)] == [(3, 2, 7, 5)]


@pytest.mark.parametrize("scale", [1e-38, 1e-3, 1e30])
def test_the_scale_of_a_map_does_not_matter(scale):
    assert boxes(spots(ONE) * scale, SIZE) == boxes(spots(ONE), SIZE)


@pytest.mark.parametrize("share", [None, 0.5])
@pytest.mark.parametrize(
    "relevance",
    [torch.zeros(SIZE), torch.full((3, 4), 0.3), torch.full(SIZE, -2.0), torch.ones(1, 1)],
    ids=["zero", "flat", "negative", "one cell"],
)
def test_a_map_that_points_nothing_out_has_no_part(relevance, share):
    assert boxes(relevance, SIZE, share=share) == []
    assert masks(relevance, SIZE, share=share).shape == (0, *SIZE)


def test_a_flat_map_points_nothing_out_along_edges_either():
    image = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    large = upsample(torch.full((1, 1, 3, 4), 0.3), image)
    assert boxes(large[0, 0], (48, 64)) == []


def test_a_picture_of_one_pixel_has_no_part():
    assert boxes(torch.ones(1, 1), (1, 1)) == []


@pytest.mark.parametrize("call", [masks, boxes])
@pytest.mark.parametrize(
    ("relevance", "size", "more", "message"),
    [
        (torch.ones(2, 3, 4), SIZE, {}, r"one map \[row, column\].*\[2, 3, 4\]"),
        (torch.ones(0, 4), SIZE, {}, r"one map \[row, column\]"),
        (torch.tensor([[1.0, torch.nan]]), SIZE, {}, "NaN or infinity"),
        (torch.tensor([[1.0, torch.inf]]), SIZE, {}, "NaN or infinity"),
        (torch.ones(3, 4), (12,), {}, r"size must be the \(height, width\)"),
        (torch.ones(3, 4), (0, 4), {}, r"size must be the \(height, width\)"),
        (torch.ones(3, 4), SIZE, {"share": 0}, "share must be above 0 and below 1"),
        (torch.ones(3, 4), SIZE, {"share": 50}, "share must be above 0 and below 1"),
    ],
)
def test_what_is_no_map_is_refused(call, relevance, size, more, message):
    with pytest.raises(ValueError, match=message):
        call(relevance, size, **more)


# Back on the picture


@pytest.mark.parametrize("picture", [(40, 60), (60, 40), (300, 400), (13, 500), (24, 24)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("floor", [False, True])
def test_a_box_goes_back_to_where_its_pixels_are_from(picture, mode, floor):
    """A mask of the picture, cut as the picture is: the box around what is left lies where it was,
    but for the pixels that one pixel of the model stands for.
    """
    height, width = picture
    top, bottom, left, right = height // 4, height * 3 // 4, width * 2 // 5, width * 3 // 5
    mask = np.zeros(picture, bool)
    mask[top:bottom, left:right] = True
    seen = Preprocessing(resize_mode=mode, floor=floor)
    cut = np.array(cut_as_picture(Image.fromarray(mask), 48, seen))
    wide = cut_as_picture(Image.fromarray(np.ones(picture, bool)), 48, seen)
    expected = np.array([left, top, right, bottom])
    if np.array(wide)[:, [0, -1]].all() and cut[:, [0, -1]].any():  # it reaches out of the square
        expected[[0, 2]] = (width - height) // 2, (width + height) // 2
    found = on_picture(around(cut, 0.5), 48, picture, seen)
    coarse = max(min(picture) if mode == "shortest" else max(picture), 48) / 48
    np.testing.assert_allclose(found[:4], expected, atol=1 + coarse)
    assert found.score == 0.5


def test_a_box_of_whole_pixels_goes_back_exactly():
    # 60x40 becomes 30x20, of which the middle 20 columns are seen: 4 to 13 are 18 to 36.
    assert on_picture(Box(4, 5, 13, 20, 1), 20, (40, 60)) == (18, 10, 36, 40, 1)


def test_what_a_picture_was_filled_up_with_is_cut_off():
    filled = Preprocessing(resize_mode="longest")  # 60x40 becomes 30x20, in the middle of 30x30
    assert on_picture(Box(0, 0, 30, 30, 1), 30, (40, 60), filled) == (0, 0, 60, 40, 1)
    with pytest.raises(ValueError, match="outside of the picture"):
        on_picture(Box(0, 0, 30, 5, 1), 30, (40, 60), filled)


def test_of_a_model_that_is_not_ours_it_is_found_what_was_done_to_the_picture():
    squash = open_clip.image_transform(32, is_train=False, resize_mode="squash")
    found = on_picture(Box(8, 16, 32, 24, 1), 32, (320, 640), squash)
    np.testing.assert_allclose(found[:4], (160, 160, 640, 240), atol=2)
    assert on_picture(Box(3, 3, 4, 4, 1), 32, (8, 8)) == (1, 1, 2, 2, 1)  # of part of a pixel


# Along edges


def test_the_filter_is_the_mean_of_fits_in_windows():
    """As He, Sun and Tang define it: ridge regression of the map on the colours in every window,
    and of every pixel the mean over the windows that it is in; without their shortcut.
    """
    rng = np.random.default_rng(0)
    guide, one = rng.random((6, 7, 3)), rng.random((6, 7))
    reach, epsilon = 1, 0.01
    wide = np.pad(guide, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    wide_map = np.pad(one, reach, mode="symmetric")
    fits = np.empty((6, 7, 4))
    for row, column in np.ndindex(6, 7):
        window = np.s_[row : row + 2 * reach + 1, column : column + 2 * reach + 1]
        colours, values = wide[window].reshape(-1, 3), wide_map[window].reshape(-1)
        centred = colours - colours.mean(0)
        ridge = centred.T @ centred / len(values) + epsilon * np.eye(3)
        slope = np.linalg.solve(ridge, centred.T @ (values - values.mean()) / len(values))
        fits[row, column] = *slope, values.mean() - slope @ colours.mean(0)
    wide_fits = np.pad(fits, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    expected = np.empty((6, 7))
    for row, column in np.ndindex(6, 7):
        window = np.s_[row : row + 2 * reach + 1, column : column + 2 * reach + 1]
        mean = wide_fits[window].reshape(-1, 4).mean(0)
        expected[row, column] = mean[:3] @ guide[row, column] + mean[3]
    found = guided(one[None].astype(np.float32), guide.astype(np.float32), reach, epsilon)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


@pytest.fixture(scope="module")
def scene():
    """A picture of two objects, their masks, and a map of each on the grid."""
    batch = as_batch([draw_scene(3, size=112, names=("cat", "apple"), background="blue")])
    area = torch.nn.functional.avg_pool2d(batch.masks.float(), 16)
    return batch.images, batch.masks[0].numpy(), area


def iou(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


def test_masks_along_edges_are_nearer_to_the_objects(scene):
    images, truths, maps = scene
    plain, along = resize_maps(maps, (112, 112)), upsample(maps, images)
    for target, truth in enumerate(truths):
        before, after = (
            iou(masks(one[0, target], (112, 112)).any(0), truth) for one in (plain, along)
        )
        assert after > before + 0.1


def test_statistics_of_the_preprocessing_do_not_matter(scene):
    images, _, maps = scene
    torch.testing.assert_close(upsample(maps, images), upsample(maps, 3 * images - 1))


def test_it_is_linear_and_every_map_is_by_itself(scene):
    images, _, maps = scene
    together = upsample(maps, images)
    torch.testing.assert_close(upsample(-2 * maps, images), -2 * together, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(upsample(maps[:, 1:], images), together[:, 1:])


def test_on_a_picture_of_one_colour_it_only_smooths():
    maps = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = upsample(maps, torch.full((1, 3, 16, 16), 0.5), radius=1 / 8)
    plain = resize_maps(maps, (16, 16))[0, 0].numpy()
    for _ in range(2):
        plain = cv2.blur(plain, (5, 5), borderType=cv2.BORDER_REFLECT)
    np.testing.assert_allclose(found[0, 0], plain, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_maps_keep_their_dtype(scene, dtype):
    images, _, maps = scene
    found = upsample(maps.to(dtype), images.to(dtype))
    assert found.dtype == dtype
    assert found.shape == (1, 2, 112, 112)


@pytest.mark.parametrize(
    ("maps", "images", "more", "error", "message"),
    [
        (torch.ones(2, 4, 4), torch.ones(1, 3, 8, 8), {}, ValueError, "maps must be"),
        (torch.ones(2, 1, 4, 4), torch.ones(1, 3, 8, 8), {}, ValueError, "as many"),
        (torch.ones(1, 1, 4, 4), torch.ones(1, 8, 8, 3), {}, ValueError, "image, 3, height"),
        (np.ones((1, 1, 4, 4)), torch.ones(1, 3, 8, 8), {}, TypeError, "maps must be a tensor"),
        (torch.ones(1, 1, 4, 4) / 0, torch.ones(1, 3, 8, 8), {}, ValueError, "maps hold NaN"),
        (torch.ones(1, 1, 4, 4), torch.ones(1, 3, 8, 8) / 0, {}, ValueError, "images hold NaN"),
        (torch.ones(1, 1, 4, 4), torch.ones(1, 3, 8, 8), {"radius": 0}, ValueError, "positive"),
        (torch.ones(1, 1, 4, 4), torch.ones(1, 3, 8, 8), {"epsilon": -1}, ValueError, "positive"),
    ],
)
def test_what_cannot_be_enlarged_is_refused(maps, images, more, error, message):
    with pytest.raises(error, match=message):
        upsample(maps, images, **more)

"""Pictures have true colours: a red photograph stays red under any heat map."""

import matplotlib
import numpy as np
import pytest
import torch

from clip_ import make_preprocess, to_rgb
from image_utils import (
    as_picture,
    heat,
    normalise_pixels,
    show_cam_on_image,
    show_overlapped_cam,
    to_bytes,
    true_colours,
)

RED, GREEN, BLUE = np.eye(3, dtype=np.float32)
COLD, HOT = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)


def plain(colour):
    return np.tile(np.float32(colour), (2, 2, 1))


# Pixels


def test_pixels_are_normalised_as_preprocess_does_and_back():
    from PIL import Image

    bytes_ = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(bytes_)
    preprocessed = make_preprocess(32)(image)
    colours = torch.tensor(np.array(to_rgb(image)) / 255, dtype=torch.float32).permute(2, 0, 1)
    torch.testing.assert_close(normalise_pixels(colours), preprocessed)
    torch.testing.assert_close(true_colours(preprocessed), colours)
    assert np.array_equal(to_bytes(as_picture(preprocessed)), bytes_)


def test_colours_out_of_range_are_clipped():
    picture = as_picture(torch.tensor([-9.0, 0, 9]).view(3, 1, 1).expand(3, 4, 5))
    assert picture.shape == (4, 5, 3)
    assert picture.dtype == np.float32
    assert (picture[..., 0] == 0).all()
    assert (picture[..., 2] == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_makes_a_picture(dtype):
    picture = as_picture(torch.zeros(3, 4, 5, dtype=dtype, requires_grad=True))
    assert picture.dtype == np.float32
    np.testing.assert_allclose(picture[0, 0], [0.4815, 0.4578, 0.4082], atol=1e-4)


def test_bytes_are_rounded_and_clipped():
    assert to_bytes(np.array([-1, 0, 0.4999 / 255, 0.5001 / 255, 0.5, 1, 2])).tolist() == (
        [0, 0, 0, 1, 128, 255, 255]
    )


# One heat map over an image


@pytest.mark.parametrize("colour", [RED, GREEN, BLUE, RED + GREEN], ids=["r", "g", "b", "rg"])
@pytest.mark.parametrize("negative", [False, True])
def test_overlay_is_the_sum_of_image_and_heat(colour, negative):
    mask = np.float32([[0, 0.3], [0.6, 1]])
    name = "winter" if negative else "jet"
    total = plain(colour) + matplotlib.colormaps[name](mask)[..., :3]
    overlay = show_cam_on_image(plain(colour), mask, negative)
    np.testing.assert_allclose(overlay, total / total.max(), atol=1e-6)


def test_red_stays_red_and_blue_stays_blue_where_nothing_is_relevant():
    red, _, blue = show_cam_on_image(plain(RED), COLD)[0, 0]
    assert red > blue
    red, _, blue = show_cam_on_image(plain(BLUE), COLD)[0, 0]
    assert blue > red


def test_heat_is_red_on_grey():
    hot, cold = show_cam_on_image(plain([0.5] * 3), np.float32([[1, 0]]).repeat(2, 0))[0]
    assert hot[0] > hot[2]
    assert cold[2] > cold[0]


def test_negative_saliency_is_told_apart_by_its_colours():
    assert not np.allclose(
        show_cam_on_image(plain(GREEN), HOT), show_cam_on_image(plain(GREEN), HOT, True)
    )


def test_another_colour_map_may_be_asked_for():
    overlay = show_cam_on_image(plain([0, 0, 0]), HOT, cmap="gray")
    assert np.array_equal(overlay, plain([1, 1, 1]))


def test_black_under_black_is_black():
    assert np.array_equal(show_cam_on_image(plain([0, 0, 0]), COLD, cmap="gray"), plain([0, 0, 0]))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64])
def test_masks_of_any_dtype_are_values_from_0_to_1(dtype):
    mask = np.array([[0, 1], [1, 0]], dtype)
    np.testing.assert_array_equal(heat(mask, "jet"), heat(np.float32(mask), "jet"))


# Two over one image


def test_positive_is_red_and_negative_is_blue():
    # The negative mask comes first.
    for colour in (RED, GREEN, BLUE, np.zeros(3), np.ones(3)):
        red, green, blue = show_overlapped_cam(plain(colour), COLD, HOT)[0, 0]
        assert red > max(green, blue) + 0.5
        red, green, blue = show_overlapped_cam(plain(colour), HOT, COLD)[0, 0]
        assert blue > max(red, green) + 0.5


def test_both_are_violet_and_neither_is_the_grey_image():
    red, green, blue = show_overlapped_cam(plain(GREEN), HOT, HOT)[0, 0]
    assert min(red, blue) > green + 0.1
    np.testing.assert_allclose(show_overlapped_cam(plain(GREEN), COLD, COLD), 1 / 3, rtol=1e-6)


def test_overlays_are_colours():
    masks = np.random.default_rng(0).random((2, 5, 7), dtype=np.float32)
    image = np.random.default_rng(1).random((5, 7, 3), dtype=np.float32)
    for overlay in (
        show_cam_on_image(image, masks[0]),
        show_cam_on_image(image, masks[0], neg_saliency=True),
        show_overlapped_cam(image, *masks),
    ):
        assert overlay.shape == (5, 7, 3)
        assert overlay.dtype == np.float32
        assert overlay.min() >= 0
        assert overlay.max() <= 1

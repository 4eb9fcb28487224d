"""Does a map find the object? Checked on maps small enough to count by hand."""

import pytest
import torch

from evaluation.localisation import (
    all_measures,
    average_precision,
    best_iou,
    energy_in_mask,
    pointing_game,
    where_it_lies,
)

MASK = torch.tensor([[True, False], [False, True]])


def test_pointing_asks_whether_the_maximum_is_on_the_object():
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[0.0, 4.0], [2.0, 3.0]]])
    assert pointing_game(maps, MASK.expand(2, 2, 2)).tolist() == [1, 0]


def test_energy_is_the_share_of_positive_relevance_on_the_object():
    assert energy_in_mask(torch.tensor([[1.0, 2.0], [-5.0, 5.0]]), MASK) == 6 / 8


def test_a_map_of_nothing_finds_nothing():
    empty = torch.zeros(3, 2, 2)
    assert not pointing_game(empty, MASK.expand(3, 2, 2)).any()
    assert not energy_in_mask(empty, MASK.expand(3, 2, 2)).any()


def test_an_even_map_has_the_energy_of_chance():
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[:2, :5] = True
    assert energy_in_mask(torch.ones(10, 10), mask) == mask.float().mean()


every_measure = pytest.mark.parametrize(
    "measure",
    [pointing_game, energy_in_mask, best_iou, average_precision, all_measures],
)


@every_measure
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_maps_that_hold_nan_or_infinity_are_refused(measure, value):
    maps = torch.tensor([[0.0, 1.0], [value, 3.0]])
    with pytest.raises(ValueError, match="maps hold NaN or infinity"):
        measure(maps, MASK)
    with pytest.raises(ValueError, match="maps hold NaN or infinity"):
        where_it_lies(maps[None], MASK[None])


@every_measure
@pytest.mark.parametrize("shape", [(2, 3), (3, 2, 2), (4,)])
def test_masks_of_another_shape_are_refused(measure, shape):
    with pytest.raises(ValueError, match=r"same size.*\[2, 2\]"):
        measure(torch.ones(2, 2), torch.ones(shape, dtype=torch.bool))


@every_measure
def test_one_mask_serves_many_maps(measure):
    maps = torch.rand(3, 2, 2)
    alone, each = measure(maps, MASK), measure(maps, MASK.expand(3, 2, 2))
    assert str(alone) == str(each)


@every_measure
def test_masks_are_true_or_false_and_ones_and_zeros_mean_that(measure):
    maps = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    for dtype in (torch.uint8, torch.float32):
        assert str(measure(maps, MASK.to(dtype))) == str(measure(maps, MASK))
    for wrong in (255 * MASK.int(), 0.5 * MASK, MASK / 0):
        with pytest.raises(ValueError, match="masks must be True on the object"):
            measure(maps, wrong)


@pytest.mark.parametrize("measure", [pointing_game, best_iou, average_precision, all_measures])
def test_an_object_that_is_nowhere_cannot_be_found(measure):
    masks = torch.stack([MASK, torch.zeros_like(MASK)])
    with pytest.raises(ValueError, match="masks are empty: there is no object"):
        measure(torch.ones(2, 2, 2), masks)


def test_a_single_object_leaves_nothing_for_others():
    assert where_it_lies(torch.ones(1, 2, 2), MASK[None])["other objects"] == 0

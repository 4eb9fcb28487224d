"""Does a map find the object? Checked on maps small enough to count by hand."""

import torch

from evaluation.localisation import energy_in_mask, pointing_game

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

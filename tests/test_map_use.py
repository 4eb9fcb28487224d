"""What is measured of masks, boxes and warnings: counted by hand, and the command as a whole."""

import csv
import inspect

import numpy as np
import pytest
import torch

from evaluation.map_use import ENLARGED, RULES, best, box_iou, main, mixed, overlap, threshold
from evaluation.output import SHIPPED
from map_tools import upsample
from prompt_check import PRESENT, SAME


def test_boxes_overlap_by_their_pixels():
    assert box_iou((0, 0, 4, 4), (2, 0, 6, 4)) == 8 / 24
    assert box_iou((0, 0, 4, 4), (4, 0, 6, 4)) == 0
    assert box_iou((1, 1, 3, 3), (1, 1, 3, 3)) == 1


def test_a_map_is_compared_with_its_object():
    truth = np.zeros((10, 10), bool)
    truth[2:6, 2:6] = True
    relevance = torch.zeros(10, 10)
    relevance[2:6, 2:8] = 2
    relevance[9, 9] = 1  # counts for the mask, and not for the first box
    assert overlap(relevance, truth, 0.99) == (16 / 25, 16 / 24, 1)
    assert overlap(torch.ones(10, 10), truth, None) == (0, 0, 0)


def test_the_best_options_are_those_of_all_methods_alike():
    def samples(**values):
        return {
            (method, "bilinear", rule): {"IoU of the mask": np.array(list(found))}
            for rule, per_method in values.items()
            for method, found in per_method.items()
        }

    one = samples(Otsu={"a": [0.9, 0.9], "b": [0.1]}, share={"a": [0.6], "b": [0.6, 0.6]})
    assert best([one]) == ("bilinear", "share")


@pytest.mark.parametrize(
    ("high", "low", "expected"),
    [
        ([[0.9, 1.0]], [[0.1, 0.5]], 0.7),  # the middle of 0.51 to 0.90
        ([[0.2, 0.9, 0.9], [0.9]], [[0.1, 0.5]], 0.7),  # one of four is given up
    ],
)
def test_the_threshold_parts_them_best(high, low, expected):
    found = threshold([np.array(one) for one in high], [np.array(one) for one in low])
    assert found == pytest.approx(expected, abs=0.01)


def test_a_mixture_has_five_percent_of_the_prompt():
    blind, seeing = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    blind[..., 0, 0], seeing[..., 1, 1] = 7, 0.1
    assert mixed(blind, seeing).flatten().tolist() == pytest.approx([0.95, 0, 0, 0.05])


def test_the_command_writes_both_tables_where_the_user_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["--choose", "1", "--judge", "4", "--models", "RN-emoji"])
    tables = {}
    for name in ("map_use", "prompt_check"):
        with (tmp_path / "evaluation-map_use" / f"{name}.csv").open() as file:
            tables[name] = list(csv.DictReader(file))
    tried = [row for row in tables["map_use"] if row["scenes"] == "chosen on"]
    assert {row["enlarged"] for row in tried} == set(ENLARGED)
    assert {row["rule"] for row in tried} == set(RULES)
    judged = [row for row in tables["map_use"] if row["scenes"] == "judged on"]
    assert "bilinear" in {row["enlarged"] for row in judged}
    assert {row["pictures"] for row in judged} == {"4"}
    caught = [row for row in tables["prompt_check"] if row["maps"] == "EigenCAM"]
    assert {row["mean"] for row in caught} == {"1.0000"}


def test_the_defaults_are_those_that_were_chosen_and_judged():
    def shipped(name):
        with (SHIPPED / f"{name}.csv").open() as file:
            return [row for row in csv.DictReader(file) if row["scenes"] == "judged on"]

    (way,) = {row["enlarged"] for row in shipped("map_use")} - {"bilinear"}
    usual = inspect.signature(upsample).parameters
    assert ENLARGED[way] == {name: usual[name].default for name in ("radius", "epsilon")}
    assert {row["rule"] for row in shipped("map_use")} == {"Otsu"}
    limits = {(row["check"], float(row["threshold"])) for row in shipped("prompt_check")}
    assert limits == {("correlation", SAME), ("presence", PRESENT)}

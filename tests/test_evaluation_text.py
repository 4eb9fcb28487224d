"""Which of two named things is in the picture: pairs are what they say, and wins are counted."""

import csv

import numpy as np
import pytest
import torch

from embedded.scenes import concepts
from evaluation.text import CHOSEN_ON, FACES, SEEDS, drawn_pairs, main, places_of, wins
from text_saliency import WordRelevance


def named(pair, places):
    return " ".join(pair.text.split()[place] for place in places)


def test_a_pair_names_what_its_scene_shows_and_something_else():
    pairs = list(drawn_pairs("things", 12, 64, seed=1))
    phrases = [concept.phrases[0] for concept in concepts()]
    for pair in pairs:
        (thing,) = pair.scene.objects
        assert named(pair, pair.shown) == phrases[thing.concept]
        assert named(pair, pair.other) in set(phrases) - {phrases[thing.concept]}
        assert (pair.shown < pair.other) == pair.first
        assert {thing.style} == {"twemoji"}
    assert {pair.first for pair in pairs} == {True, False}
    again = list(drawn_pairs("things", 12, 64, seed=1))
    assert [pair.text for pair in again] == [pair.text for pair in pairs]
    assert all(
        np.array_equal(*(p.scene.image for p in two)) for two in zip(pairs, again, strict=True)
    )


def test_adjectives_are_the_words_that_tell_faces_apart():
    for pair in drawn_pairs("adjectives", 8, 64, seed=1):
        (thing,) = pair.scene.objects
        assert concepts()[thing.concept].name == named(pair, pair.shown)
        assert {named(pair, pair.shown), named(pair, pair.other)} <= set(FACES)
        assert len(pair.shown) == len(pair.other) == 1


def test_a_phrase_is_found_whole():
    assert places_of("a bear", "a picture of a bear") == [3, 4]
    with pytest.raises(StopIteration):
        places_of("a bear", "a picture of a bee")


def test_more_relevance_wins_and_ties_are_half_a_win():
    pair = next(drawn_pairs("adjectives", 1, 64, seed=1))  # words 1 and 5
    values = torch.zeros(3, 7)
    values[0, pair.shown], values[1, pair.other] = 1, 1
    words = [WordRelevance(pair.text, pair.text.split(), [], row[None]) for row in values]
    assert wins([pair] * 3, words).tolist() == [1, 0, 0.5]


def test_the_default_was_chosen_on_other_scenes():
    assert len({*SEEDS.values(), *CHOSEN_ON.values()}) == 4


def test_the_command_writes_a_table_where_the_user_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["--models", "ViT-emoji", "--methods", "path", "--pairs", "3"])
    rows = list(csv.DictReader((tmp_path / "evaluation-text" / "text.csv").open()))
    assert {row["method"] for row in rows} == {"path"}
    assert {"things", "adjectives"} < {row["measure"] for row in rows}
    assert all(0 <= float(row["low"]) <= float(row["mean"]) <= 1 for row in rows)


def test_a_file_in_the_place_of_the_folder_is_refused_before_the_work(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(NotADirectoryError, match="is a file: give a folder for the tables"):
        main(["--models", "no model", "--output", str(tmp_path / "out")])
    assert (tmp_path / "out").read_text() == "mine"

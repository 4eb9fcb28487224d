"""A few cases of everything that `make test-long` tries, and what it takes for wrong."""

import pickle
import threading

import every_check
import fuzzed_files
import outcomes
import pytest
from outcomes import Tally

from checkpoints import load_state_dict

SLICE = {what: check for what, check in every_check.CHECKS.items() if check.few}


@pytest.mark.parametrize("what", SLICE)
def test_what_is_tried_is_right_or_refused_with_a_sentence(what):
    tally = SLICE[what].tally(SLICE[what].few)
    assert tally.wrong == []
    assert tally.right + tally.refused


def judged(*case, **options) -> tuple[int, int, int]:
    tally = Tally()
    tally.judge("a case", *case, **options)
    return tally.right, tally.refused, len(tally.wrong)


RIGHT, REFUSED, WRONG = (1, 0, 0), (0, 1, 0), (0, 0, 1)


def test_an_answer_is_right_unless_a_fault_is_found():
    assert judged(lambda: 2) == RIGHT
    assert judged(lambda: 2, lambda found: f"{found} is not 3") == WRONG


def test_a_refusal_is_an_error_that_the_code_raises_with_a_sentence():
    refused = lambda: load_state_dict("no such model")  # noqa: E731
    assert judged(refused) == REFUSED
    assert judged(refused, naming="no such model") == REFUSED
    assert judged(refused, naming="another name") == WRONG
    assert judged(refused, valid=True) == WRONG


def test_any_other_error_is_wrong():
    assert judged(lambda: int("no number")) == WRONG  # ours is not the code that raises it
    assert judged(lambda: load_state_dict(None, {}.missing)) == WRONG


def test_a_case_without_an_end_is_wrong(monkeypatch):
    monkeypatch.setattr(outcomes, "PATIENCE", 0.05)
    assert judged(threading.Event().wait) == WRONG


@pytest.mark.parametrize("way", ["REDUCE", "INST", "OBJ", "STACK_GLOBAL", "BUILD"])
def test_what_is_tried_as_code_would_run_if_a_pickle_were_trusted(tmp_path, way):
    made = tmp_path / "made"
    pickle.loads(fuzzed_files.program(way, "os", "mkdir", (str(made),)))
    assert made.is_dir()

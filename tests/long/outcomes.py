"""What may come of a case: a right answer, or a refusal with a sentence. Anything else is wrong."""

import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy, composite, integers

CODE = Path(__file__).resolve().parents[2] / "code"
REFUSALS = (ValueError, TypeError, RuntimeError, LookupError, FileNotFoundError, SystemExit)
PATIENCE = 120  # seconds, after which a case hangs: none takes a tenth of that


class Hangs(BaseException):
    """No Exception, so that no `except Exception` of the code takes it for its own."""


class Tally:
    """How many cases were right and refused, and which were wrong, and why."""

    def __init__(self):
        self.right, self.refused, self.wrong = 0, 0, []

    def judge(
        self,
        case: str,
        answer: Callable[[], Any],
        fault: Callable[[Any], str] = lambda _: "",
        *,
        naming: str = "",
        valid: bool = False,
    ) -> None:
        """Count what comes of `answer()`.

        fault: what is wrong with an answer; empty if it is right. naming: what a refusal must name,
        such as a file. valid: a refusal would be wrong.
        """
        refusal = None
        try:
            with at_most(PATIENCE), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", RuntimeWarning)
                problem = fault(answer())
        except Hangs:
            problem = f"no answer in {PATIENCE} s"
        except (Exception, SystemExit) as error:
            refusal = error
            problem = fault_of_refusal(error, naming)
            if valid and not problem:
                problem = f"refused: {error}"
        if problem:
            self.wrong.append(f"{case}: {problem}")
        elif refusal:
            self.refused += 1
        else:
            self.right += 1


def fault_of_refusal(error: BaseException, naming: str) -> str:
    """What keeps an error from being a refusal: raised on purpose, in code/, with a sentence."""
    frames = traceback.extract_tb(error.__traceback__)
    last, said = frames[-1], f"{type(error).__name__}: {error}"[:300]
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(CODE)]
    meant = last.line and last.line.startswith(("raise ", "parser.error", "sys.exit"))
    if not ours or last is not ours[-1] or not meant or not isinstance(error, REFUSALS):
        return f"{said} (in {Path(last.filename).name}, line {last.lineno}: {last.line})"
    if len(str(error).split()) < 4 or naming not in str(error):
        return f"no sentence that names {naming or 'what is wrong'}: {said}"
    return ""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    def stop(*_):
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def for_all(cases: int, **strategies: SearchStrategy) -> Callable:
    """Call the function below with so many drawn arguments, the same in every run."""

    def run(judge: Callable) -> None:
        options = settings(
            max_examples=cases,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        options(given(**strategies)(judge))()

    return run


@composite
def mostly(draw, usual: SearchStrategy, odd: SearchStrategy):
    """The odd ones once in eight times."""
    return draw(odd if draw(integers(0, 7)) == 7 else usual)

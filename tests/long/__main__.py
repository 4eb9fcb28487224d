"""Run every check on many cases, and write what came of it into tests/README.md.

python tests/long                       all, as `make test-long` does
python tests/long pictures downloads    those with a word in their names; nothing is written
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CODE = HERE.parents[1] / "code"
sys.path[:0] = map(str, (CODE, CODE / "notebooks", HERE.parent, HERE))

import matplotlib  # noqa: E402
import torch  # noqa: E402
from every_check import CHECKS  # noqa: E402
from tqdm import tqdm  # noqa: E402

PAGE = HERE.parent / "README.md"
START, END = "<!-- outcomes: made by `make test-long` -->", "<!-- end of outcomes -->"
MEMORY = 16 * 2**30  # bytes of addresses for a check: what asks for more fails, not the machine
SHOWN = 20  # wrong cases of each kind of check


def in_this_process(what: str) -> None:
    """Run one check and print its outcome as JSON."""
    torch.set_num_threads(1)
    matplotlib.use("Agg")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    print(json.dumps(vars(CHECKS[what].tally(CHECKS[what].cases))))


def in_its_own(what: str) -> dict:
    """The outcome of a check that may end its process."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", HERE, "--one", what],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    last = (done.stdout.splitlines() or [""])[-1]
    if done.returncode:
        why = " / ".join(done.stderr.strip().splitlines()[-5:])
        outcome = {"right": 0, "refused": 0, "wrong": [f"ends with {done.returncode}: {why}"]}
    else:
        outcome = json.loads(last)
    return {"what": what, "seconds": round(time.monotonic() - started), **outcome}


def table(outcomes: Iterable[dict]) -> str:
    """What was tried, how often, and what came of it."""
    lines = ["| what | | cases | right | refused | wrong |", "|---|---|---|---|---|---|"]
    for one in outcomes:
        wrong = len(one["wrong"])
        told = " ".join(CHECKS[one["what"]].run.__doc__.split())
        counts = (one["right"] + one["refused"] + wrong, one["right"], one["refused"], wrong)
        lines.append(f"| {one['what']} | {told} | {' | '.join(f'{n:,}' for n in counts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return in_this_process(args.one)
    chosen = [what for what in CHECKS if not args.words or any(w in what for w in args.words)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(tqdm(pool.map(in_its_own, chosen), total=len(chosen), unit="check"))
    for one in outcomes:
        print(f"{one['what']}: {one['seconds']} s")
        for case in one["wrong"][:SHOWN]:
            print(f"  WRONG {case}")
    print(table(outcomes))
    if not args.words:
        text = PAGE.read_text(encoding="utf-8")
        part = re.compile(re.escape(START) + ".*?" + re.escape(END), re.DOTALL)
        made = f"{START}\n{table(outcomes)}\n{END}"
        PAGE.write_text(part.sub(lambda _: made, text), encoding="utf-8")
    raise SystemExit(any(one["wrong"] for one in outcomes))


if __name__ == "__main__":
    main()

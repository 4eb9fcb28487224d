"""What the benchmarks share: taking turns, peak memory, rows of the table, aims."""

import csv
import math
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from worker import peak_resident

from files import whole_file

MIB = 2**20
Call = Callable[[], object]


@dataclass(frozen=True)
class Aim:
    """What a method should reach at K targets: at most so many forwards, or times faster."""

    method: str
    targets: int
    measure: str
    bound: float
    batch: int = 8


@dataclass(frozen=True)
class Row:
    """A line of the table, and of the CSV file. Empty (NaN) is what was not measured."""

    model: str
    batch: int
    targets: int
    method: str
    milliseconds: float
    forwards: float = math.nan
    forwards_low: float = math.nan
    forwards_high: float = math.nan
    speed_up: float = math.nan
    peak_mib: float = math.nan
    rounds: int = 0
    scaled: bool = False


def seconds_of(call: Call, device: str) -> float:
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    finish()
    start = time.perf_counter()
    call()
    finish()
    return time.perf_counter() - start


def take_turns(calls: list[Call], fewest: int, seconds: float, device: str) -> list[list[float]]:
    """Seconds of each call in each round: at least `fewest` rounds, more while there is time."""
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) < fewest or time.perf_counter() - start < seconds:
        rounds.append([seconds_of(call, device) for call in calls])
    # The first round warms up; it counts only where others are few.
    return rounds[1:] if len(rounds) > fewest else rounds


def peak_mib(prepare: Callable[[], Call], device: str, threads: int) -> float:
    """MiB at the peak of the call that `prepare` returns, warmed up; infinite if there are too few.

    prepare: a function of a module, or a partial of one: on a CPU it runs in a fresh process.
    """
    try:
        if device == "cuda":
            return allocated_growth(prepare) / MIB
        # The server has imported PyTorch but computed nothing: each process forked from it is new.
        context = get_context("forkserver")
        context.set_forkserver_preload(["torch"])
        with ProcessPoolExecutor(1, context) as fresh:
            return fresh.submit(resident_growth, prepare, threads).result() / MIB
    except (BrokenProcessPool, torch.OutOfMemoryError):
        return math.inf


def resident_growth(prepare: Callable[[], Call], threads: int) -> int:
    """By how many bytes the call raises the high-water mark of this process's resident memory."""
    torch.set_num_threads(threads)
    call = prepare()
    before = peak_resident()
    call()
    return peak_resident() - before


def allocated_growth(prepare: Callable[[], Call]) -> int:
    """Bytes on the GPU, at the peak of the call, beyond those held before it."""
    call = prepare()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def show(row: Row) -> None:
    mark = "~" if row.scaled else ""
    spread = f"[{row.forwards_low:.2f}, {row.forwards_high:.2f}]"
    cells = [
        f"{row.model:<15}{row.batch:>5}{row.targets or '':>4}  {row.method:<19}",
        cell(row.milliseconds, mark + "{:,.1f}", 13),
        cell(row.forwards, mark + "{:.2f}", 10),
        f"{'' if math.isnan(row.forwards_low) else spread:>18}",
        cell(row.speed_up, mark + "{:,.1f}x", 12),
        cell(row.peak_mib, "{:,.0f}", 11),
        f"{row.rounds or '':>7}",
    ]
    print("".join(cells), flush=True)


def cell(value: float, form: str, width: int) -> str:
    return f"{'' if math.isnan(value) else form.format(value):>{width}}"


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def show_verdicts(rows: list[Row], aims: tuple[Aim, ...]) -> None:
    """Every aim for which there is a figure, for each model."""
    for aim in aims:
        for row in rows:
            if (row.method, row.targets, row.batch) != (aim.method, aim.targets, aim.batch):
                continue
            figure = getattr(row, aim.measure)
            slow = aim.measure == "forwards"
            met = figure <= aim.bound if slow else figure >= aim.bound
            said = (
                f"{figure:.2f} forwards (aim: at most {aim.bound:g})"
                if slow
                else f"{figure:,.0f} times faster (aim: at least {aim.bound:g})"
            )
            case = f"{row.model}, {row.method}, {row.batch} images, K = {row.targets}"
            print(f"{'met' if met else 'NOT met':<9}{case}: {said}")


def tell(rows: list[dict], output: Path | None) -> None:
    """Print the rows, and save them where that is asked."""
    for row in rows:
        print(row)
    if output:
        save(rows, output)


def save(rows: list[dict], path: Path, device: str = "cpu") -> None:
    """As CSV, with what they were measured on; whole or not at all."""
    here = {
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.partition("+")[0],
    }
    rows = [row | here for row in rows]
    with whole_file(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)

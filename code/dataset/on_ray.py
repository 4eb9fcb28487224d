"""The shards of a run as tasks on a Ray cluster, of this machine or of many.

A task writes one file, so Ray may run it again wherever and whenever it likes: a worker that dies
costs the files that it had begun. If this process dies, the same command goes on with what is
missing. The machines of a cluster share the folders of the pictures, the maps and this code.
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from dataset.decoding import Decoder
from dataset.reading import count_errors
from dataset.run import Plan, Progress
from dataset.shard import Job, explain_shard
from dataset.sources import Entry
from explainer import Explainer

CODE = Path(__file__).resolve().parents[1]
LOCAL = "local"  # a cluster of this machine, for this run
WAITING = 2  # tasks for each that can run: what is sent ahead
RETRIES = 5


@lru_cache(1)
def loaded(model: str) -> Explainer:
    """Of a worker, which keeps it for its next tasks."""
    return Explainer(model)


def write_shard(path: str, job: Job, some: list[Entry]) -> str:
    """What a task does; the file."""
    if not Path(path).exists():
        explainer = loaded(job.model)
        pictures = Decoder(explainer.frame(job.crop)).each(some)
        explain_shard(Path(path), job, explainer, pictures)
    return path


def run_on_ray(plan: Plan, address: str) -> None:
    """Write what is missing. ValueError without Ray, RuntimeError without a cluster there.

    address: "local", "auto" for the cluster that this machine has joined, or one of Ray's.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs Ray: pip install -r requirements-ray.txt") from None
    connect(address)
    try:
        with Progress(plan) as progress:
            for path in finished(plan):
                progress.add(*count_errors(path))
    finally:
        ray.shutdown()


def connect(address: str) -> None:
    import ray

    options = {"env_vars": {"PYTHONPATH": str(CODE)}}
    try:
        ray.init(
            address,
            runtime_env=options,
            include_dashboard=False if address == LOCAL else None,
            log_to_driver=False,
            logging_level="error",
        )
    except Exception as error:  # a plain one where its processes do not start in time
        raise RuntimeError(f"no Ray cluster at {address!r}: {error}") from error


def finished(plan: Plan) -> Iterator[Path]:
    """Files, as they are written: one task a core, or a GPU where there are some."""
    import ray

    there = ray.cluster_resources()
    kind = "GPU" if there.get("GPU") else "CPU"
    task = ray.remote(num_cpus=1, num_gpus=1 if kind == "GPU" else 0, max_retries=RETRIES)(
        write_shard
    )
    missing, running = plan.missing(), set()
    while True:
        most = WAITING * max(1, int(ray.cluster_resources().get(kind, 1)))
        while len(running) < most and (next_one := next(missing, None)):
            path, some = next_one
            running.add(task.remote(os.path.abspath(path), plan.job, some))
        if not running:
            return
        done, rest = ray.wait(list(running))
        running = set(rest)
        try:
            yield from (plan.out / Path(path).name for path in ray.get(done))
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"a task on Ray failed: {error}") from error

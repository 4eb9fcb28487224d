"""Shards as tasks on Ray: the same files, whatever dies. Skipped where Ray is not installed."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import explain
from dataset.on_ray import write_shard
from dataset.reading import read_rows, shards
from dataset.shard import Job
from dataset.sources import entries
from explainer import Explainer
from picture_sets import fill, spoil
from question import ask

CODE = Path(explain.__file__).parent
ASKED = ["a cow", "a sheep", "--model", "ViT-emoji", "--shard", "2"]


def test_without_ray_it_is_said_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    fill(tmp_path / "in", 2)
    with pytest.raises(SystemExit) as stopped:
        explain.main([str(tmp_path / "in"), *ASKED, "--out", str(tmp_path / "out"), "--ray"])
    assert stopped.value.code == 2
    assert "--ray needs Ray: pip install -r requirements-ray.txt" in capsys.readouterr().err


def command(place: Path, out: str, *options: str) -> subprocess.Popen:
    arguments = [sys.executable, CODE / "explain.py", "in", *ASKED, "--out", out, *options]
    return subprocess.Popen(arguments, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def without_float_noise(row: dict) -> tuple:
    return row["id"], row["path"], row["error"], row["rows"], row["columns"], row["window"]


def test_ray_writes_what_the_loop_writes_though_a_worker_dies(tmp_path):
    pytest.importorskip("ray", reason="needs ray: pip install -r requirements-ray.txt")
    spoil(fill(tmp_path / "in", 20))
    (tmp_path / "in" / "long.png").unlink()
    loop = command(tmp_path, "loop")
    assert loop.wait() == 0
    running = command(tmp_path, "out", "--ray")
    killed = None
    while running.poll() is None:
        if killed is None and (tmp_path / "out" / "shard-000000.parquet").exists():
            killed = next(iter(workers_of(running.pid)), None)
            if killed:
                os.kill(killed, signal.SIGKILL)
        time.sleep(0.02)
    out, error = running.communicate()
    assert running.returncode == 0, error
    assert killed
    assert b"23 of 27 pictures explained" in out
    rows, expected = list(read_rows(tmp_path / "out")), list(read_rows(tmp_path / "loop"))
    assert list(map(without_float_noise, rows)) == list(map(without_float_noise, expected))
    for row, other in zip(rows, expected, strict=True):
        assert row["scores"] == pytest.approx(other["scores"], abs=1e-3)


@pytest.mark.parametrize("address", ["local", "auto"])
def test_ray_goes_on_after_the_command_was_killed(tmp_path, address, request, monkeypatch):
    pytest.importorskip("ray", reason="needs ray: pip install -r requirements-ray.txt")
    if address == "auto":
        request.getfixturevalue("cluster")
    else:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # a cluster that was not asked for
    fill(tmp_path / "in", 24)
    running = command(tmp_path, "out", "--ray", address)
    while running.poll() is None and not shards(tmp_path / "out"):
        time.sleep(0.02)
    running.kill()
    _, error = running.communicate()
    assert running.returncode == -signal.SIGKILL, error
    written = {path: path.stat().st_mtime_ns for path in shards(tmp_path / "out")}
    assert 0 < len(written) < 12
    again = command(tmp_path, "out", "--ray", address)
    out, error = again.communicate()
    assert again.returncode == 0, error
    assert b"24 of 24 pictures explained" in out
    assert [row["id"] for row in read_rows(tmp_path / "out")] == list(range(24))
    assert not list((tmp_path / "out").glob(".unfinished*"))
    assert {path: path.stat().st_mtime_ns for path in written} == written


@pytest.fixture
def cluster(monkeypatch):
    """A cluster that outlives its commands, as README starts one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    options = ["--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # there may be a token from another run
    head = subprocess.Popen([ray, "start", *options], process_group=0, stdout=subprocess.PIPE)
    try:
        while b"Ray runtime started" not in (line := head.stdout.readline()):
            assert line, "no cluster starts"
        yield
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.communicate()


def workers_of(driver: int) -> list[int]:
    """Ray's processes that run a task of ours."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            said = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if said.startswith(b"ray::write_shard") and str(CODE).encode() in environment:
            found.append(int(process.name))
    return found


def test_a_task_writes_its_file_once(tmp_path):
    explainer = Explainer("ViT-emoji")
    job = Job("ViT-emoji", ask(explainer, ["a cow"]), False, "uint8", 2, {})
    some, path = list(entries([fill(tmp_path / "in", 3)])), tmp_path / "shard-000000.parquet"
    assert write_shard(str(path), job, some) == str(path)
    written = path.stat().st_mtime_ns
    write_shard(str(path), job, some)
    assert path.stat().st_mtime_ns == written
    assert [row["id"] for row in read_rows(tmp_path)] == [0, 1, 2]

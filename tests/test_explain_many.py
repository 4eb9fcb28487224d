"""The command on folders, lists, archives and tables: each picture a row, exactly once."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import explain
from dataset.decoding import DIED, Decoder, Decoders
from dataset.reading import read_maps, read_rows, read_settings, shards
from dataset.shard import Job, explain_shard
from dataset.sources import entries
from dataset.storage import restored, stored
from explainer import Explainer
from picture_sets import as_archive, as_list, as_table, fill, picture, spoil
from preprocessing import WholeFrame
from question import ask

CODE = Path(explain.__file__).parent
ASKED = ["a cow", "a sheep", "--model", "ViT-emoji", "--workers", "1", "--shard", "4"]


@pytest.fixture(scope="module")
def vit() -> Explainer:
    return Explainer("ViT-emoji")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        explain.main(list(map(str, arguments)))
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_picture_is_a_row_exactly_once_and_every_bad_one_is_named(place, capsys):
    bad = spoil(fill(place / "in", 9))
    explain.main(["in", *ASKED, "--out", "out"])
    rows = list(read_rows("out"))
    assert [row["id"] for row in rows] == list(range(17))
    assert [row["path"] for row in rows] == sorted(path.name for path in (place / "in").iterdir())
    assert {row["path"] for row in rows if row["error"] is not None} == bad
    said = capsys.readouterr().out
    assert "13 of 17 pictures explained" in said
    assert all(f"'{name}': " in said for name in bad)
    assert [pq.read_metadata(path).num_rows for path in shards("out")] == [4, 4, 4, 4, 1]
    assert not list((place / "out").glob(".unfinished*"))


def test_maps_and_scores_are_those_of_the_picture_by_itself(place, vit):
    fill(place / "in", 4)
    explain.main(["in", *ASKED, "--out", "out", "--method", "direct signed", "--batch", "3"])
    question = ask(vit, ["a cow", "a sheep"], method="direct signed")
    frame = vit.frame()
    found = list(read_maps("out"))
    assert [one.path for one in found] == [f"{number:02}.png" for number in range(4)]
    for number, (_, scores, maps) in enumerate(found):
        images = vit.images([np.asarray(frame(picture(number)))])
        raw, cosines = question.answer(vit, images)
        torch.testing.assert_close(scores, cosines[0], atol=1e-3, rtol=0)
        assert maps.shape == raw[0].shape
        step = raw[0].abs().amax((-2, -1), keepdim=True) / 127
        assert ((maps - raw[0]).abs() <= 0.51 * step).all()
        assert (raw < 0).any()


@pytest.mark.parametrize("kind", ["uint8", "int8", "float16"])
def test_what_is_stored_is_right_to_half_a_step(kind):
    maps = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32) * 1e-7
    maps = np.abs(maps) if kind == "uint8" else maps
    maps[1, 2] = 0
    values, scales = stored(maps, kind)
    step = {"uint8": 1 / 510, "int8": 1 / 254, "float16": 2**-11}[kind]
    for one, value, scale in zip(maps, values, scales, strict=True):
        again = restored(value.ravel(), scale, (5, 4), kind)
        assert (np.abs(again - one) <= 1.01 * step * scale[:, None, None]).all()
    with pytest.raises(ValueError, match="negative somewhere"):
        stored(-np.ones((1, 1, 2, 2), np.float32), "uint8")


def test_lists_archives_and_tables_hold_what_the_folder_holds(place):
    fill(place / "in", 8)
    made = {
        "in": place / "in",
        "list": as_list(place / "in", place / "list.csv"),
        "archive": as_archive(place / "in", place / "a.tar"),
        "table": as_table(place / "in", place / "data.parquet"),
    }
    contents = {
        name: [entry.where.read() for entry in entries([source])] for name, source in made.items()
    }
    assert len(contents["in"]) == 8
    assert all(found == contents["in"] for found in contents.values())
    several = list(entries(list(made.values())))
    assert [entry.id for entry in several] == list(range(32))
    assert several[16].path == "a.tar/00.png"
    assert several[31].path == "data.parquet/7"
    assert [entry.where.read() for entry in reversed(several[24:])] == contents["in"][::-1]


def test_folders_are_read_in_order_of_names_without_hidden_files_and_what_comes_out(place):
    for name in (
        "b/x.png",
        "a.png",
        "b/.hidden.png",
        "c.txt",
        "out/y.png",
        "é\n'\".png",
        ".d/z.png",
    ):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).touch()
    os.close(os.open(os.fsencode(place) + b"/\xff.png", os.O_CREAT))
    paths = [entry.path for entry in entries([place], place / "out")]
    assert paths == ["a.png", "b/x.png", "é\n'\".png", "\\xff.png"]


def test_names_of_any_bytes_and_rows_of_one_name_are_stored(place):
    fill(place / "in", 1)
    content = (place / "in" / "00.png").read_bytes()
    for name in (b"\xff.png", b"a\n'b\".png"):
        with open(os.fsencode(place / "in") + b"/" + name, "wb") as file:
            file.write(content)
    (place / "list.csv").write_text('path\nin/00.png\nin/00.png\nnone.png\n"in/a\n\'b"".png"\n')
    explain.main(["in", "list.csv", *ASKED, "--out", "out"])
    found = [(row["path"], row["error"]) for row in read_rows("out")]
    good = ["00.png", "a\n'b\".png", "\\xff.png", "in/00.png", "in/00.png"]
    assert found[:5] == [(name, None) for name in good]
    assert found[5:] == [("none.png", "there is no such file"), ("in/a\n'b\".png", None)]


def test_stopped_it_goes_on_with_what_is_missing(place, vit):
    fill(place / "in", 10)
    explain.main(["in", *ASKED, "--out", "out"])
    whole = files(place / "out")
    (place / "out" / "shard-000001.parquet").unlink()
    (place / "out" / ".unfinished-0.parquet").write_text("half")
    before = (place / "out" / "shard-000000.parquet").stat().st_mtime_ns
    explain.main(["in", *ASKED, "--out", "out"])
    again = files(place / "out")
    assert set(again) == set(whole)
    assert [row["id"] for row in read_rows("out")] == list(range(10))
    assert (place / "out" / "shard-000000.parquet").stat().st_mtime_ns == before


def test_other_settings_in_the_same_folder_are_refused_with_what_differs(place, capsys):
    fill(place / "in", 3)
    explain.main(["in", *ASKED, "--out", "out"])
    before = files(place / "out")
    for other, said in (
        (["--method", "gradcam"], 'method was "direct" and is now "gradcam"'),
        (["--negative"], "negative was false and is now true"),
        (["--crop"], "frame was "),
        (["--float16"], 'storage was "uint8" and is now "float16"'),
        (
            ["a pig"],
            'targets was \\["a cow", "a sheep"\\] and is now \\["a cow", "a sheep", "a pig"',
        ),
        (["--like", "in/00.png"], 'pictures as targets was {} and is now {"00.png"'),
    ):
        line = refused(capsys, "in", *ASKED, "--out", "out", *other)
        assert re.search(f"out holds maps of other settings: .*{said}", line), line
        assert files(place / "out") == before
    fill(place / "in", 4)
    assert "pictures was 3 and is now 4" in refused(capsys, "in", *ASKED, "--out", "out")


def test_another_picture_of_the_same_name_is_not_taken_for_the_old_one(place, capsys):
    fill(place / "in", 2)
    explain.main(["in", *ASKED, "--out", "out"])
    before = files(place / "out")
    Image.new("RGB", (30, 40), "red").save(place / "in" / "00.png")
    for arguments in (["in", *ASKED, "--out", "out"], ["show", "out"], ["export", "out", "--png"]):
        assert re.search("names, sizes and times|are others", refused(capsys, *arguments))
    assert files(place / "out") == before


WRONG = {
    "no folder for the maps": (["in", "a cow"], "give a folder for the maps: --out MAPS"),
    "a file": (["in", "a cow", "--out", "list.csv"], "list.csv is a file: give a folder"),
    "a folder of other things": (["in", "a cow", "--out", "in"], "in holds other things than maps"),
    "no pictures": (["nothing", "a cow", "--out", "out"], "there is no picture in nothing"),
    "no such list": (["none.csv", "a cow", "--out", "out"], "no folder or file .*none.csv"),
    "a list without paths": (
        ["list.csv", "a cow", "--out", "out"],
        "list.csv must have a column called path; its columns are label, file",
    ),
    "a cut archive": (["cut.tar", "a cow", "--out", "out"], "cut.tar is no whole tar archive"),
    "no table": (["no.parquet", "a cow", "--out", "out"], "no.parquet is no Parquet file"),
    "pictures besides": (["in", "in/00.png", "a cow", "--out", "out"], "not both"),
    "several models": (["in", "a", "--model", "x", "--model", "y", "--out", "out"], "of one model"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_a_sentence_and_nothing_is_written(place, capsys, case):
    fill(place / "in", 3)
    (place / "nothing").mkdir()
    (place / "list.csv").write_text("label,file\n1,a.png\n")
    whole = as_archive(place / "in", place / "whole.tar").read_bytes()
    (place / "cut.tar").write_bytes(whole[:700])
    (place / "no.parquet").write_text("PAR1 and no more")
    before = files(place)
    arguments, message = WRONG[case]
    assert re.search(message, refused(capsys, *arguments))
    assert files(place) == before


def test_numbers_of_options_are_checked(capsys):
    with pytest.raises(SystemExit):
        explain.main(["in", "a", "--batch", "0"])
    assert "--batch: it must be a number from 1 on; got '0'" in capsys.readouterr().err


def test_a_full_disk_is_a_sentence_and_leaves_what_is_whole(place, capsys):
    fill(place / "in", 8)
    explain.main(["in", *ASKED, "--out", "out"])
    (place / "out" / "shard-000001.parquet").unlink()
    before = files(place / "out")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limit[1]))
    try:
        line = refused(capsys, "in", *ASKED, "--out", "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "File too large" in line
    assert files(place / "out") == before


# Root may write anywhere unless it gives up this right.
AS_ANYBODY = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []


def test_a_folder_that_cannot_be_written_is_refused_before_the_model_is_looked_for(place, capsys):
    fill(place / "in", 2)
    asked = ["in", "a cow", "--model", "none.pt", "--out"]
    assert "cannot write into /proc: " in refused(capsys, *asked, "/proc/maps")
    (place / "out").mkdir(mode=0o555)
    arguments = [*AS_ANYBODY, sys.executable, CODE / "explain.py", *asked, "out"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"explain.py: cannot write into {place / 'out'}: Permission denied\n"
    assert files(place / "out") == {}
    (place / "out").chmod(0o755)
    assert "none.pt" in refused(capsys, *asked, "out")


def test_strict_tells_errors_by_the_exit_status(place):
    (fill(place / "in", 2) / "empty.png").touch()
    explain.main(["in", *ASKED, "--out", "out"])
    with pytest.raises(SystemExit) as stopped:
        explain.main(["in", *ASKED, "--out", "out", "--strict"])
    assert stopped.value.code == 3


def command(place: Path, *options: str) -> subprocess.Popen:
    arguments = [sys.executable, CODE / "explain.py", "in", *ASKED, "--out", "out", *options]
    return subprocess.Popen(arguments, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def test_killed_it_goes_on_and_its_processes_end_with_it(place):
    fill(place / "in", 40)
    running = command(place, "--shard", "2", "--batch", "2")
    first = place / "out" / "shard-000000.parquet"
    wait_for(first.exists)
    children = children_of(running.pid)
    assert children
    running.kill()
    running.wait()
    wait_for(lambda: not any(map(is_alive, children)))
    done = set(shards(place / "out"))
    assert 0 < len(done) < 20
    again = command(place, "--shard", "2", "--batch", "2")
    assert b"40 of 40 pictures explained" in again.communicate()[0]
    assert [row["id"] for row in read_rows(place / "out")] == list(range(40))
    assert not list((place / "out").glob(".unfinished*"))


def test_a_second_command_into_the_same_folder_is_refused_and_the_first_goes_on(place, capsys):
    fill(place / "in", 12)
    running = command(place, "--shard", "2", "--batch", "2")
    wait_for((place / "out" / "shard-000000.parquet").exists)
    running.send_signal(signal.SIGSTOP)
    unfinished = [place / "out" / f".unfinished-0.{kind}" for kind in ("parquet", "html")]
    for path in unfinished:
        path.touch()
    before = files(place / "out")
    assert len(before) < 10
    line = refused(capsys, "in", *ASKED, "--out", "out", "--shard", "2")
    assert "another command writes into out: wait for its end" in line
    assert files(place / "out") == before
    running.send_signal(signal.SIGCONT)
    assert b"12 of 12 pictures explained" in running.communicate()[0]
    assert [path.exists() for path in unfinished] == [False, True]  # a page may be being written
    explain.main(["in", *ASKED, "--out", "out", "--shard", "2"])


def wait_for(so, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end
        time.sleep(0.02)


def children_of(process: int) -> list[int]:
    """All processes that it started, and those that these did."""
    tasks = Path(f"/proc/{process}/task/{process}/children")
    children = [int(child) for child in tasks.read_text().split()]
    return children + [below for child in children for below in children_of(child)]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Deadly(Decoder):
    """Dies of some pictures: always, or once, when there is a file to remove."""

    def __call__(self, entry):
        if entry.path == "03.png" or (entry.path == "05.png" and self.once()):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(entry)

    def once(self) -> bool:
        try:
            os.unlink("once")
        except FileNotFoundError:
            return False
        return True


def test_a_process_that_dies_is_replaced_and_the_picture_it_died_of_named(place):
    fill(place / "in", 12)
    (place / "once").touch()
    with Decoders(Deadly(WholeFrame(224, 16)), 2) as decoders:
        found = {entry.path: found for entry, found in decoders.each(entries(["in"]))}
        assert len(found) == 12
        assert {path for path, one in found.items() if one == DIED} == {"03.png"}
        assert found["05.png"].size == picture(5).size
        assert len(list(decoders.each(entries(["in"])))) == 12


def test_a_shard_needs_no_processes_and_leaves_pictures_out_that_cannot_be_explained(place, vit):
    fill(place / "in", 5)
    job = Job("ViT-emoji", ask(vit, ["a cow"]), False, "uint8", 2, {"made": "by hand"})
    decoder = Decoder(vit.frame())
    pictures = [
        (
            entry,
            one._replace(pixels=np.full(one.pixels.shape, np.nan, np.float32).transpose(2, 0, 1)),
        )
        if entry.id == 2
        else (entry, one)
        for entry, one in decoder.each(entries(["in"]))
    ]
    told = []
    explain_shard(place / "x.parquet", job, vit, pictures[::-1], lambda *new: told.append(new))
    rows = pq.read_table(place / "x.parquet").to_pylist()
    assert [row["id"] for row in rows] == list(range(5))
    assert [row["error"] is None for row in rows] == [True, True, False, True, True]
    assert "NaN" in rows[2]["error"]
    assert np.sum(told, 0).tolist() == [5, 1]
    assert json.loads(pq.read_schema(place / "x.parquet").metadata[b"explain"]) == {
        "made": "by hand"
    }


def test_the_settings_say_what_was_asked_of_which_model(place):
    Image.new("RGB", (20, 30)).save(fill(place / "in", 1) / "00.png")
    explain.main(["in", *ASKED, "--out", "out"])
    said = read_settings("out")
    assert said["targets"] == ["a cow", "a sheep"]
    assert len(said["weights"]) == 64
    assert set(said["versions"]) == {"torch", "pillow", "python"}
    assert json.loads(pq.read_schema(shards("out")[0]).metadata[b"explain"]) == said

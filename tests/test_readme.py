"""What the READMEs link to and show is there, and what they say to run runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import fresh_clone
import pytest

import explain
from picture_sets import fill, picture

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "report"))
PAGES = [
    *("README.md", "SECURITY.md", "Images/README.md", "code/embedded/README.md"),
    "tests/README.md",
]
EMBEDDED = {"ViT-B/32": "ViT-emoji", "RN50": "RN-emoji"}  # in the place of those to download


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_picture_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    local = [unquote(link.split("#")[0]) for link in links if not link.startswith("http")]
    missing = [link for link in local if link and not (ROOT / page).parent.joinpath(link).exists()]
    assert local
    assert missing == []


def test_every_make_target_that_is_named_is_there():
    makefile = (ROOT / "Makefile").read_text()
    text = "\n".join((ROOT / page).read_text("utf-8") for page in PAGES)
    named = set(re.findall(r"(?m)(?:`|^)make ([a-z][a-z-]+)", text))
    assert "demo" in named
    assert [target for target in named if f"\n{target}:" not in makefile] == []


@pytest.mark.parametrize("name", ["glance", "speed"])
def test_measured_parts_are_those_of_the_tables(name):
    import readme

    start, end = readme.marks(name)
    made = f"{start}\n{readme.SECTIONS[name]()}\n{end}"
    assert made in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_make_target_has_one_recipe():
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"\.PHONY: ((?:.*\\\n)*.*)\n", text).group(1).replace("\\\n", " ").split()
    recipes = re.findall(r"(?m)^([a-z-]+):", text)
    assert sorted(phony) == sorted(recipes)
    called = re.findall(r"(?m)^make ([a-z-]+)", (ROOT / ".ci" / "run").read_text())
    assert called
    assert set(called) <= set(recipes)


def test_python_of_the_page_runs_as_it_stands_from_top_to_bottom():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    scenes = (ROOT / "code" / "embedded" / "README.md").read_text(encoding="utf-8")
    blocks += re.findall(r"```python\n(.*?)```", scenes, re.DOTALL)
    assert len(blocks) > 3
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    shapes = "print([list(one.shape) for one in maps], image.shape, scene.image.shape)"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, shapes])],
        cwd=ROOT,
        env=env | {"MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout.strip() == "[[2, 3, 14, 14]] torch.Size([1, 3, 224, 224]) (224, 224, 3)"


def test_commands_and_reader_of_the_page_explain_a_photo_and_a_folder(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "FOLDER", 3)
    picture(0).save("photo.jpg")
    for command in fresh_clone.commands(ROOT / "README.md"):
        _, script, *arguments = [EMBEDDED.get(word, word) for word in shlex.split(command)] + [""]
        if script == "code/explain.py" and "--ray" not in arguments:  # see test_explain_ray.py
            explain.main(arguments[:-1])
    made = ("photo explained.png", "maps/gallery.html", "maps/coco/annotations.json")
    assert all(Path(path).stat().st_size > 500 for path in made)
    (block,) = re.findall(r"```py\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    capsys.readouterr()
    exec(compile(block, "README.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": prompt ")[0] for line in said] == ["00.png", "01.png", "02.png"]


def test_every_command_of_the_page_is_run_in_a_fresh_clone_or_left_out_on_purpose():
    assert fresh_clone.commands(ROOT / "README.md") == list(fresh_clone.COMMANDS)


def test_options_of_the_page_are_those_of_its_commands():
    for command in fresh_clone.COMMANDS:
        script = re.search(r"python (?:-m )?(\S+)", command)
        if script:
            name = script[1].replace("evaluation", "code/evaluation/__main__.py")
            source = (ROOT / name).read_text(encoding="utf-8")
            assert all(f'"{option}"' in source for option in re.findall(r"--\w+", command))


def test_models_come_before_results_and_words_are_explained_before_tables_use_them():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert page.index("\n## Models") < page.index("\n## Results")
    for word in ("pointing", "energy", "forwards"):
        in_a_table = re.search(rf"(?m)^\|.*{word}", page).start()
        assert page.lower().index(f"*{word}*") < in_a_table

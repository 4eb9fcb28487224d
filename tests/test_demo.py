"""The demo: a user's own picture and prompts, or a sentence on what is wrong with them."""

import re
import sys

import numpy as np
import pytest
from PIL import Image

import demo
from explainer import Explainer

FIGURE = demo.ROOT / "results" / "demo" / "demo.png"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder where the user stands, with two pictures in it."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpeg")
    Image.fromarray(pixels).save("other.png")
    return tmp_path


@pytest.fixture
def no_model(monkeypatch):
    monkeypatch.setattr(demo, "Explainer", lambda name: pytest.fail("a model was loaded"))


def refused(capsys, *arguments) -> str:
    """The one line that is said about what is wrong."""
    with pytest.raises(SystemExit) as stopped:
        demo.main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_users_figure_goes_where_the_user_stands(folder, capsys):
    shipped = FIGURE.read_bytes()
    before = names(folder)
    demo.main(["photo.jpeg", r"a $\frac$ in {a_b}", "--models", "ViT-emoji"])
    assert names(folder) - before == {"photo explained.png"}
    assert FIGURE.read_bytes() == shipped
    out, err = capsys.readouterr()
    assert "wrote photo explained.png" in out
    assert err == ""


@pytest.mark.parametrize("ending", ["pdf", "SVG", "jpg"])
def test_the_figure_may_be_of_another_format_in_another_folder(folder, ending):
    demo.main(
        ["photo.jpeg", "a cat", "--models", "ViT-emoji", "--output", f"new/folder/a.{ending}"]
    )
    assert names(folder / "new" / "folder") == {f"a.{ending}"}


def test_a_method_of_one_embedded_model_is_shown_on_that_one(folder, capsys, monkeypatch):
    monkeypatch.setattr(demo, "save", lambda *_: None)
    for method, name in (("all grads", "ViT-emoji"), ("LayerCAM", "RN-emoji")):
        demo.main(["photo.jpeg", "--method", method, "a cat"])
        assert f"photo.jpeg, {name}\n" in capsys.readouterr().out


def test_many_prompts_are_wrapped_in_rows(folder, monkeypatch):
    rows = []
    monkeypatch.setattr(demo, "save", lambda lines, path: rows.extend(lines))
    demo.main(["photo.jpeg", *map(str, range(13)), "--models", "ViT-emoji"])
    assert [len(row) for row in rows] == [5, 5, 4]
    assert rows[2][3].title.startswith("ViT-emoji: 12 (")


def test_letters_without_a_glyph_are_told_once(folder, capsys, recwarn):
    demo.main(["photo.jpeg", "a 猫", "猫 and 犬", "--models", "ViT-emoji"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("lack: 犬 猫")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


WRONG = {
    "no prompt": (["photo.jpeg"], 'give at least one prompt after the image, such as "a cat"'),
    "an empty prompt": (["photo.jpeg", "a cat", " "], "a prompt is empty"),
    "a long prompt": (["photo.jpeg", "word " * 90], "text is too long: 92 tokens"),
    "many prompts": (["photo.jpeg", *"a" * 101], "101 prompts are too many"),
    "many pictures": (["photo.jpeg", "other.png"], "one image at a time.*other.png is an image"),
    "a missing picture": (["photo.jpg", "a cat"], "no image photo.jpg; .* other.png, photo.jpeg"),
    "a folder": ([".", "a cat"], "no image .; .* other.png, photo.jpeg"),
    "a text": (["notes.png", "a cat"], "notes.png is not an image that can be read"),
    "an unknown method": (["photo.jpeg", "a cat", "--method", "x"], "unknown method 'x': a ViT"),
    "no ending": (["photo.jpeg", "a cat", "--output", "a"], "a must end in one of .png"),
    "an unknown ending": (["photo.jpeg", "a cat", "--output", "a.doc"], "a.doc must end in one of"),
    "the picture itself": (
        ["photo.jpeg", "a cat", "--output", "../{}/photo.jpeg"],
        "photo.jpeg is the image that is explained",
    ),
    "a folder as output": (["photo.jpeg", "a cat", "--output", "x.png"], "x.png is a folder"),
    "no folder as output": (
        ["photo.jpeg", "a cat", "--output", "other.png/a.png"],
        "cannot write other.png/a.png: Not a directory",
    ),
    "a long output": (
        ["photo.jpeg", "a cat", "--output", "a" * 300 + ".png"],
        "cannot write a+.png: File name too long",
    ),
    "the repository's figure": (
        ["photo.jpeg", "a cat", "--output", str(FIGURE)],
        "results is for the repository's own figures",
    ),
    "the same of other models": (
        ["--models", "ViT-emoji", "--output", str(FIGURE)],
        "results is for the repository's own figures",
    ),
}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_a_sentence_before_a_model_is_loaded(folder, capsys, case):
    (folder / "notes.png").write_text("a text")
    (folder / "x.png").mkdir()
    before = names(folder)
    arguments, message = WRONG[case]
    line = refused(capsys, *(argument.replace("{}", folder.name) for argument in arguments))
    assert re.search(message, line)
    assert names(folder) == before


def test_an_unknown_model_is_a_sentence(folder, capsys):
    line = refused(capsys, "photo.jpeg", "a cat", "--models", "ViT-Z")
    assert "'ViT-Z' is neither a known model nor a file" in line


def test_a_method_that_a_model_does_not_have_is_refused_before_any_work(
    folder, capsys, monkeypatch
):
    monkeypatch.setattr(Explainer, "heat", lambda *_: pytest.fail("work was done"))
    models = ["--models", "ViT-emoji", "RN-emoji"]
    line = refused(capsys, "photo.jpeg", "a cat", "--method", "gradcam", *models)
    assert "RN-emoji is a ResNet and has no method 'gradcam': a ViT takes last grad, " in line


def test_a_figure_that_cannot_be_written_leaves_the_old_one(folder, capsys, monkeypatch):
    def full(figure, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (folder / "photo explained.png").write_bytes(b"old")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    line = refused(capsys, "photo.jpeg", "a cat", "--models", "ViT-emoji")
    assert "No space left on device" in line
    assert (folder / "photo explained.png").read_bytes() == b"old"
    assert names(folder) == {"photo.jpeg", "other.png", "photo explained.png"}


def test_the_shipped_figure_is_that_of_no_arguments(monkeypatch):
    written = []
    monkeypatch.setattr(demo, "save", lambda rows, path: written.append((rows, path)))
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    demo.main()
    ((rows, path),) = written
    assert path == FIGURE
    assert [len(row) for row in rows] == [5, 5]

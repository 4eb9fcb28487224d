"""The command on pictures: a figure of a user's own, or a sentence on what is wrong."""

import re

import numpy as np
import pytest
from PIL import Image

import explain
import overlay_figure
from clip_ import load, tokenize
from objective import similarities, target_directions


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
    monkeypatch.setattr(explain, "explainers", lambda names: pytest.fail("a model was loaded"))


@pytest.fixture
def drawn(monkeypatch):
    """The rows of panels of the figures that the test makes, and their labels."""
    found = []
    monkeypatch.setattr(explain, "save", lambda *figure: found.append(figure))
    return found


def refused(capsys, *arguments) -> str:
    """The one line that is said about what is wrong."""
    with pytest.raises(SystemExit) as stopped:
        explain.main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_users_figure_goes_where_the_user_stands(folder, capsys):
    before = names(folder)
    explain.main(["photo.jpeg", r"a $\frac$ in {a_b}", "--model", "ViT-emoji"])
    assert names(folder) - before == {"photo explained.png"}
    out, err = capsys.readouterr()
    assert "wrote photo explained.png" in out
    assert err == ""


@pytest.mark.parametrize("ending", ["pdf", "SVG", "jpg"])
def test_the_figure_may_be_of_another_format_in_another_folder(folder, ending):
    explain.main(["photo.jpeg", "a cat", "--model", "ViT-emoji", "--out", f"new/folder/a.{ending}"])
    assert names(folder / "new" / "folder") == {f"a.{ending}"}


def test_a_method_of_one_embedded_model_is_shown_on_that_one(folder, drawn, capsys):
    for method, name in (("all grads", "ViT-emoji"), ("LayerCAM", "RN-emoji")):
        explain.main(["photo.jpeg", "--method", method, "a cat"])
        assert f"photo.jpeg, {name}, {method}: the whole picture\n" in capsys.readouterr().out


def test_pictures_models_and_methods_stand_side_by_side_with_the_picture_before_its_prompts(
    folder, drawn
):
    explain.main(["photo.jpeg", "other.png", "a cat", "--method", "gradcam", "--method", "direct"])
    ((rows, labels, path),) = drawn
    assert labels == ["ViT-emoji, gradcam", "ViT-emoji, direct"] * 2
    assert [len(row) for row in rows] == [2] * 4
    assert rows[0][0].title == ""
    assert rows[0][1].title.startswith("a cat (")
    assert str(path) == "photo explained.png"


def test_many_prompts_are_wrapped_in_rows_with_the_same_label(folder, drawn):
    explain.main(["photo.jpeg", *map(str, range(13)), "--model", "ViT-emoji"])
    ((rows, labels, _),) = drawn
    assert [len(row) for row in rows] == [5, 5, 4]
    assert labels == ["ViT-emoji, direct"] * 3
    assert rows[2][3].title.startswith("12 (")


def test_panels_have_the_shape_of_the_whole_picture(folder, drawn):
    Image.new("RGB", (3000, 500), "red").save("wide.png")
    explain.main(["wide.png", "a cat", "--model", "ViT-emoji"])
    ((rows, _, _),) = drawn
    assert {panel.picture.shape for panel in rows[0]} == {(200, 1200, 3)}


def test_cropped_there_is_heat_where_the_model_looked_alone(folder, drawn, capsys):
    Image.new("RGB", (300, 100), "red").save("wide.png")
    explain.main(["wide.png", "a cat", "--model", "ViT-emoji", "--crop"])
    picture, overlay = (panel.picture for panel in drawn[0][0][0])
    changed = (picture != overlay).any((0, 2)).nonzero()[0]
    assert (changed.min(), changed.max()) == (100, 199)
    assert "what its own preprocessing leaves of the picture" in capsys.readouterr().out


def test_scores_are_cosines_of_prompts_words_and_pictures(folder, drawn, capsys):
    options = ["--crop", "--words", "--like", "other.png", "--model", "ViT-emoji"]
    explain.main(["photo.jpeg", "a cat", *options])
    said = dict(re.findall(r"(?m)^ +(-?[\d.]+)  (.+)$", capsys.readouterr().out))
    said = {name: float(score) for score, name in said.items()}
    model, preprocess = load("ViT-emoji", device="cpu")
    photo, other = (
        model.encode_image(preprocess(Image.open(name)).unsqueeze(0))
        for name in ("photo.jpeg", "other.png")
    )
    texts = target_directions(model.encode_text(tokenize(["a cat", "cat", "a"])))
    whole, without_a, without_cat = similarities(photo, texts)[0].tolist()
    likeness = similarities(photo, target_directions(other)).item()
    assert said == pytest.approx(
        {
            "a cat": whole,
            "a cat: a": whole - without_a,
            "a cat: cat": whole - without_cat,
            "other.png": likeness,
        },
        abs=0.006,
    )


def test_negative_explains_what_speaks_against(folder, drawn):
    heats = []
    for options in ([], ["--negative"]):
        explain.main(["photo.jpeg", "a cat", "--model", "ViT-emoji", *options])
        heats.append(drawn[-1][0][0][1].picture)
    assert np.abs(heats[0] - heats[1]).max() > 0.1


def test_prompts_may_stand_in_a_file_a_line_each(folder, drawn):
    (folder / "prompts.txt").write_text("\ufeffa cat\n\n  a dog  \n", encoding="utf-8")
    explain.main(["photo.jpeg", "--prompts", "prompts.txt", "--model", "ViT-emoji"])
    titles = [panel.title.split(" (")[0] for panel in drawn[0][0][0]]
    assert titles == ["", "a cat", "a dog"]


def test_letters_without_a_glyph_are_told_once(folder, capsys, recwarn):
    explain.main(["photo.jpeg", "a 猫", "猫 and 犬", "--model", "ViT-emoji"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("lack: 犬 猫")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


WRONG = {
    "nothing": ([], "give a picture or a folder, then prompts; --help"),
    "no picture": (["a cat"], "give a picture or a folder"),
    "no prompt": (["photo.jpeg"], 'give at least one prompt after the pictures, such as "a cat"'),
    "an empty prompt": (["photo.jpeg", "a cat", " "], "a prompt is empty"),
    "many prompts": (["photo.jpeg", *"a" * 101], "101 prompts are too many"),
    "a missing picture": (["photo.jpg", "a cat"], "no image photo.jpg; .* other.png, photo.jpeg"),
    "a text": (["notes.png", "a cat"], "notes.png is not an image that can be read"),
    "a missing file of prompts": (["photo.jpeg", "--prompts", "no.txt"], "No such file.*no.txt"),
    "a missing target": (["photo.jpeg", "--like", "no.png"], "no image no.png"),
    "an unknown method": (["photo.jpeg", "a cat", "--method", "x"], "has the method 'x': a ViT"),
    "an unknown colour map": (["photo.jpeg", "a", "--cmap", "no"], "'no' is no colour map"),
    "no ending": (["photo.jpeg", "a cat", "--out", "a"], "a must end in one of .png"),
    "an unknown ending": (["photo.jpeg", "a cat", "--out", "a.doc"], "a.doc must end in one of"),
    "the picture itself": (
        ["photo.jpeg", "a cat", "--out", "../{}/photo.jpeg"],
        "photo.jpeg is the picture that is explained",
    ),
    "a folder as output": (["photo.jpeg", "a cat", "--out", "x.png"], "x.png is a folder"),
    "no folder as output": (
        ["photo.jpeg", "a cat", "--out", "other.png/a.png"],
        "cannot write other.png/a.png: Not a directory",
    ),
    "a long output": (
        ["photo.jpeg", "a cat", "--out", "a" * 300 + ".png"],
        "cannot write a+.png: File name too long",
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a cat", "--model", "ViT-Z"], "'ViT-Z' is neither a known model nor a file"),
        (["word " * 90, "--model", "ViT-emoji"], "text is too long: 92 tokens"),
        (
            ["a cat", "--method", "gradcam", "--model", "ViT-emoji", "--model", "RN-emoji"],
            "RN-emoji is a ResNet and has no method 'gradcam': it takes pool, ",
        ),
        (["a cat", "--negative", "--method", "rollout"], "rollout is the same for all targets"),
    ],
)
def test_what_the_model_cannot_do_is_a_sentence_before_any_work(
    folder, capsys, monkeypatch, options, message
):
    monkeypatch.setattr(overlay_figure, "explained", lambda *_: pytest.fail("work was done"))
    assert message in refused(capsys, "photo.jpeg", *options)


def test_a_figure_that_cannot_be_written_leaves_the_old_one(folder, capsys, monkeypatch):
    def full(figure, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (folder / "photo explained.png").write_bytes(b"old")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    line = refused(capsys, "photo.jpeg", "a cat", "--model", "ViT-emoji")
    assert "No space left on device" in line
    assert (folder / "photo explained.png").read_bytes() == b"old"
    assert names(folder) == {"photo.jpeg", "other.png", "photo explained.png"}

"""The report is set from the tables that are there."""

import sys
from pathlib import Path

import pytest
import typst

sys.path.append(str(Path(__file__).parent.parent / "report"))

import build
import readme

ROOT = Path(__file__).parent.parent


def test_every_number_and_figure_of_the_report_is_found_and_it_has_8_to_14_pages():
    pages = typst.compile(ROOT / "report" / "report.typ", root=ROOT, format="png", ppi=20)
    assert 8 <= len(pages) <= 14


def full_disk(path, content, **_):
    with path.open("wb") as file:
        file.write(b"half")
    raise OSError("No space left on device")


def test_a_full_disk_leaves_the_old_report(monkeypatch, tmp_path):
    old = tmp_path / "report.pdf"
    old.write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    monkeypatch.setattr(typst, "compile", lambda *_, **__: b"new")
    monkeypatch.setattr(sys, "argv", ["build.py", "--output", str(old)])
    with pytest.raises(OSError, match="No space"):
        build.main()
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


def test_a_full_disk_leaves_the_old_readme(monkeypatch, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("{}\nold\n{}".format(*readme.marks("glance")))
    before = page.read_text()
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "SECTIONS", {"glance": lambda: "new"})
    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_text", full_disk)
        with pytest.raises(OSError, match="No space"):
            readme.main()
    assert page.read_text() == before
    readme.main()
    assert page.read_text() == before.replace("old", "new")
    assert list(tmp_path.iterdir()) == [page]

"""What the READMEs link to and show is there."""

import re
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "report"))
PAGES = ["README.md", "Images/README.md", "code/embedded/README.md"]


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

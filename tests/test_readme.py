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


def test_the_results_at_a_glance_are_those_of_the_tables():
    import glance

    assert glance.section() in (ROOT / "README.md").read_text(encoding="utf-8")

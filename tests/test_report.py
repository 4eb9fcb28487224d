"""The report is set from the tables that are there."""

from pathlib import Path

import typst

ROOT = Path(__file__).parent.parent


def test_every_number_and_figure_of_the_report_is_found_and_it_has_8_to_14_pages():
    pages = typst.compile(ROOT / "report" / "report.typ", root=ROOT, format="png", ppi=20)
    assert 8 <= len(pages) <= 14

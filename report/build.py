"""Set CLIP_Explainability.pdf from report.typ and results/. Needs no network."""

import argparse
import sys
from pathlib import Path

import typst

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "code"))

from files import whole_file  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "CLIP_Explainability.pdf")
    output = parser.parse_args().output
    document = typst.compile(ROOT / "report" / "report.typ", root=ROOT)
    with whole_file(output) as unfinished:
        unfinished.write_bytes(document)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()

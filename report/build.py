"""Set CLIP_Explainability.pdf from report.typ and results/. Needs no network."""

import argparse
from pathlib import Path

import typst

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "CLIP_Explainability.pdf")
    output = parser.parse_args().output
    # Whole before anything is written: an error leaves the old PDF.
    document = typst.compile(ROOT / "report" / "report.typ", root=ROOT)
    output.write_bytes(document)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()

"""Where the commands of this package write to."""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "results" / "evaluation"


def output_folder(args: argparse.Namespace, usual: dict, own: str) -> Path:
    """`--output`; else, of a run without any other option (`usual`), what the repository ships, and
    of a user's own run a folder where it is started.
    """
    if args.output is not None:
        return args.output
    given = {name: vars(args)[name] for name in usual}
    return SHIPPED if given == usual else Path(own)

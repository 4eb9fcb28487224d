"""Where the commands of this package write to."""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "results" / "evaluation"


def output_folder(args: argparse.Namespace, usual: dict, own: str) -> Path:
    """`--output`; else, of a run without any other option (`usual`), what the repository ships, and
    of a user's own run a folder where it is started. Raises NotADirectoryError, before hours of
    work, where there is a file of that name.
    """
    given = {name: vars(args)[name] for name in usual}
    folder = args.output or (SHIPPED if given == usual else Path(own))
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: give a folder for the tables")
    return folder

"""Execute the notebooks top to bottom, as `make notebooks` does; stop at the first error.

execute.py                     all, in place, with their figures into results/
execute.py perword_vis         one
execute.py --check FOLDER      figures into FOLDER, notebooks left alone; fails unless every file
                               that results/ holds of them is there

Where CLIP_MODELS or CLIP_RESULTS (see experiment.py) send the figures elsewhere, the executed
notebooks go there too.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from experiment import MODELS, chosen_models, model_names, results_folder
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from files import whole_file

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "results"
WIDGET = "application/vnd.jupyter.widget-view+json"
NAMES = sorted(path.stem for path in HERE.glob("[!.]*.ipynb"))


def execute(name: str) -> nbformat.NotebookNode:
    """The notebook with its outputs, executed in its folder."""
    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": HERE}},
        record_timing=False,
    )
    cells = tqdm(notebook.cells, desc=f"{name:<24}", unit="cell")
    with client.setup_kernel():
        for index, cell in enumerate(cells):
            if cell.cell_type == "code":
                cell.outputs = []
                client.execute_cell(cell, index, execution_count=None)
                cell.outputs = [output for output in cell.outputs if not is_progress(output)]
                for output in cell.outputs:  # widgets end with their kernel: their pictures stay
                    output.get("data", {}).pop(WIDGET, None)
    number = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            number += 1
            cell.execution_count = number
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = number
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def is_progress(output: nbformat.NotebookNode) -> bool:
    """Progress bars are for those who wait."""
    return output.output_type == "stream" and output.name == "stderr"


def missing_figures(name: str, folder: Path) -> list[str]:
    """Results that the repository or the notebook's own text names, but that were not written."""
    committed = [path.name for path in (RESULTS / name).glob("*.*")]
    if chosen_models() != "embedded":
        committed = []  # names of files tell the model
    text = (HERE / f"{name}.ipynb").read_text(encoding="utf-8")
    named = re.findall(rf"results/{name}/([^)\s\"]+\.(?:png|pdf|csv))", text)
    return sorted({file for file in committed + named if not (folder / name / file).is_file()})


def settle_paths() -> Path:
    """The folder of results. Notebooks, which run in another folder, are told whole paths."""
    if chosen_models() not in MODELS:
        os.environ["CLIP_MODELS"] = ",".join(model_names())
    folder = results_folder()
    os.environ["CLIP_RESULTS"] = str(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NOTEBOOK", help="default: all")
    parser.add_argument("--check", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(NAMES))
    if unknown:
        parser.error(f"no notebook {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if args.check:
        os.environ["CLIP_RESULTS"] = str(args.check)
    try:
        folder = settle_paths()
    except ValueError as error:
        parser.error(str(error))
    started = time.perf_counter()
    for name in args.names or NAMES:
        try:
            notebook = execute(name)
        except CellExecutionError as error:
            sys.exit(f"{name} failed:\n{error}")
        if args.check:
            if missing := missing_figures(name, args.check):
                sys.exit(f"{name} did not write {', '.join(missing)}")
        else:
            place = HERE if folder == RESULTS else folder / name
            with whole_file(place / f"{name}.ipynb") as unfinished:
                nbformat.write(notebook, unfinished)
    print(f"executed in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

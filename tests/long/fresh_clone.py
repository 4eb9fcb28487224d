"""README's commands, in its order, in a fresh clone: what README's tables are set from must stay.

They run with this environment, small where they would take long, and on embedded models in the
place of those that are downloaded. Left out are the tests and what measures the tables anew.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import PIL.Image

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ".venv/bin/python"
SMALL = "--scenes 2 --faithfulness 1 --sanity 1"
COMMANDS = {  # what README says: what is run
    "make demo": f'{PYTHON} code/explain.py "Images/car&bicycle&tree.png" "a car" --out demo.png',
    "make test": "",
    "make page-serve": "",
    f'{PYTHON} code/explain.py photo.jpg "a cat" "a dog" --model ViT-B/32 --model RN50': (
        f'{PYTHON} code/explain.py photo.jpg "a cat" "a dog" --model ViT-emoji --model RN-emoji'
    ),
    f'{PYTHON} code/explain.py FOLDER "a cat" "a dog" --model ViT-B/32 --out maps': (
        f'{PYTHON} code/explain.py Images "a cat" "a dog" --model ViT-emoji --out maps'
    ),
    f"{PYTHON} code/explain.py show maps": f"{PYTHON} code/explain.py show maps",
    f"{PYTHON} code/explain.py export maps --coco": f"{PYTHON} code/explain.py export maps --coco",
    ".venv/bin/pip install -r requirements-ray.txt": "",
    ".venv/bin/ray start --head": ".venv/bin/ray start --head",
    f'{PYTHON} code/explain.py FOLDER "a cat" "a dog" --model ViT-B/32 --out maps --ray auto': (
        f'{PYTHON} code/explain.py Images "a cat" "a dog" --model ViT-emoji --out of-ray '
        "--ray auto; status=$?; .venv/bin/ray stop; exit $status"
    ),
    "make evaluate": "",
    "make bench": "",
    "make report": f"{PYTHON} report/readme.py",
    f"PYTHONPATH=code {PYTHON} -m evaluation --models ViT-B/32 --images FOLDER": (
        f"PYTHONPATH=code {PYTHON} -m evaluation --models ViT-emoji --images Images {SMALL}"
    ),
    f"PYTHONPATH=code {PYTHON} -m evaluation --models ViT-B/32 --images VOCdevkit/VOC2012 "
    "--format voc": "",
}
TABLES = ("README.md", "results/evaluation", "results/benchmarks")


def commands(page: Path) -> list[str]:
    """The lines of a page's shell blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
        (clone / ".venv").symlink_to(sys.prefix)
        PIL.Image.open(clone / "Images" / "chelsea.png").convert("RGB").save(clone / "photo.jpg")
        for said in commands(clone / "README.md"):
            if run := COMMANDS[said]:
                print(f"$ {run}", flush=True)
                env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
                subprocess.run(run, shell=True, cwd=clone, env=env, check=True)
        status = ["git", "status", "--porcelain", "--", *TABLES]
        changed = subprocess.run(status, cwd=clone, capture_output=True, text=True).stdout
    if changed:
        raise SystemExit(f"README's commands have changed what its tables are set from:\n{changed}")
    print("README's tables and what they are set from are as they were committed")


if __name__ == "__main__":
    main()

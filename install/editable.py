"""How `pip install -e .` installs this repository, and why `pip install .` does not (PEP 517, 660).

`code/` is a folder of plain modules with plain names, such as `model` and `maps`: to be read where
it lies, not to be copied into an environment, where other packages' modules may have those names.
An editable install puts it first on the path, so that its `pytorch_grad_cam` is found before PyPI's
grad-cam, and requires what requirements.txt lists.
"""

import base64
import hashlib
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REFUSAL = (
    "clip-explainability is not installed as a copy: its modules have plain names (model, maps, "
    "words) that would be in the way of other packages'. Clone the repository and run "
    "`pip install -e .` in it, or put its folder code/ first on the path"
)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """Write a wheel whose only content is a line that puts `code/` on the path; return its name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    name, version = project["name"].replace("-", "_"), project["version"]
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    requirements = [line for line in lines if line and not line.startswith("#")]
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {version}",
        f"Summary: {project['description']}",
        f"Requires-Python: {project['requires-python']}",
        *(f"Requires-Dist: {requirement}" for requirement in requirements),
    ]
    wheel = [
        "Wheel-Version: 1.0",
        "Generator: editable",
        "Root-Is-Purelib: true",
        "Tag: py3-none-any",
    ]
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.pth": f"import sys; sys.path.insert(0, {str(ROOT / 'code')!a})\n",
        f"{info}/METADATA": "\n".join([*metadata, ""]),
        f"{info}/WHEEL": "\n".join([*wheel, ""]),
    }
    record = [f"{path},{digest(content)},{len(content)}" for path, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    file_name = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory) / file_name, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return file_name


def digest(content: str) -> str:
    sha256 = hashlib.sha256(content.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(sha256).decode().rstrip("=")


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    sys.exit(REFUSAL)


def build_sdist(sdist_directory, config_settings=None) -> str:
    sys.exit(REFUSAL)

"""`code/` on the path, or `pip install -e .`, is all that it takes; another install is refused.

In fresh environments that see the packages of this one, PyPI's grad-cam among them, whose modules
have the name of ours.
"""

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WHERE = "import vit_cam, rn_cam, pytorch_grad_cam; print(pytorch_grad_cam.__file__)"
OURS = str(ROOT / "code" / "pytorch_grad_cam" / "__init__.py")


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess:
    """In a folder that is not the repository's, with nothing else on the path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, encoding="utf-8"
    )


def pip(python: Path, *arguments: str | Path, folder: Path) -> subprocess.CompletedProcess:
    """This environment's pip at work in another one, without a network."""
    options = ("install", "--no-deps", "--no-index", "--disable-pip-version-check")
    return run(sys.executable, "-m", "pip", "--python", python, *options, *arguments, folder=folder)


@pytest.fixture
def python(tmp_path) -> Path:
    """The interpreter of a fresh environment."""
    fresh = tmp_path / "fresh"
    run(sys.executable, "-m", "venv", "--without-pip", fresh, folder=tmp_path)
    scripts, packages = (
        Path(sysconfig.get_path(name, "venv", {"base": fresh})) for name in ("scripts", "purelib")
    )
    (packages / "these.pth").write_text(sysconfig.get_path("purelib"))
    return scripts / "python"


def test_an_editable_install_works_from_anywhere_and_before_grad_cam(tmp_path, python):
    done = pip(python, "-e", ROOT, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert version("grad-cam")
    done = run(python, "-c", WHERE, folder=tmp_path)
    assert done.stdout.strip() == OURS, done.stderr


def test_an_editable_install_requires_what_requirements_txt_lists(tmp_path, python):
    pip(python, "-e", ROOT, folder=tmp_path)
    ask = "from importlib.metadata import requires; print(*requires('clip-explainability'))"
    required = run(python, "-c", ask, folder=tmp_path).stdout.split()
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert required == [line for line in lines if not line.startswith("#")]
    assert "torchvision" in required


def test_a_copy_is_refused_with_the_way_to_install(tmp_path, python):
    done = pip(python, ROOT, folder=tmp_path)
    assert done.returncode
    assert "run `pip install -e .`" in done.stdout + done.stderr
    ask = "import importlib.metadata as m; m.version('clip-explainability')"
    assert "PackageNotFoundError" in run(python, "-c", ask, folder=tmp_path).stderr


@pytest.mark.parametrize("hook", ["build_wheel", "build_sdist"])
def test_nothing_is_built_to_be_uploaded(tmp_path, hook):
    build = f"import editable; editable.{hook}({str(tmp_path)!r})"
    done = run(sys.executable, "-c", build, folder=ROOT / "install")
    assert "run `pip install -e .`" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_code_last_on_the_path_names_grad_cam_and_the_remedy(tmp_path):
    code = str(ROOT / "code")
    last = f"""
import sys
sys.path.append({code!r})
for entry in ("vit_cam", "rn_cam", "saliency", "explainer"):
    try:
        __import__(entry)
    except ImportError as error:
        print(error)
"""
    sentences = run(sys.executable, "-c", last, folder=tmp_path).stdout.splitlines()
    assert len(sentences) == 4
    for sentence in sentences:
        assert sentence.startswith("PyPI's grad-cam was found as pytorch_grad_cam")
        assert f"sys.path.insert(0, {code!r})" in sentence

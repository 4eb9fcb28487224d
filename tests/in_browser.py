"""What tests of pages share: scripts of `browser/`, run by node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = Path(__file__).parent / "browser"


def require_browser() -> None:
    if shutil.which("node") is None or not (BROWSER / "node_modules").is_dir():
        pytest.skip("needs a browser: make browser")


def node(script: str, *arguments: str | Path, given: Any = None) -> Any:
    """What a script of `browser/` tells, having read `given`; both are JSON."""
    if shutil.which("node") is None:
        pytest.skip("needs node")
    done = subprocess.run(
        ["node", BROWSER / script, *arguments],
        input=json.dumps(given),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

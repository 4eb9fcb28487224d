"""The CAMs of `pytorch_grad_cam`: of the one beside this file, not of PyPI's grad-cam.

PyPI's has the same name, and is found instead wherever this folder comes later on the path. What
needs the CAMs imports them from here, which says so at once.
"""

import importlib.util
from pathlib import Path

HERE = Path(__file__).resolve().parent
found = importlib.util.find_spec("pytorch_grad_cam").origin
if Path(found).resolve().parent.parent != HERE:
    raise ImportError(
        f"PyPI's grad-cam was found as pytorch_grad_cam, in {found}, instead of {HERE}'s: put that "
        f"folder first on the path, sys.path.insert(0, {str(HERE)!r}), and start Python anew"
    )

from pytorch_grad_cam import CAMS, BaseCAM  # noqa: E402

__all__ = ["CAMS", "BaseCAM"]

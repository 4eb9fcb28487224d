"""The notebook widget: maps of Python, drawn in a browser as the page draws them."""

import base64
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from clip_ import load
from explainer import Explainer
from in_browser import node, require_browser
from saliency import relevance_maps

pytest.importorskip("anywidget")
from widget import Exploration, explore, script

PICTURE = Path(__file__).parent.parent / "Images" / "horse&sheep.png"


@pytest.fixture(scope="module")
def shown() -> Exploration:
    return explore("ViT-emoji", PICTURE, ["a horse", "a sheep"])


def maps_of(widget: Exploration) -> torch.Tensor:
    values = np.frombuffer(widget.maps, np.float32).reshape(-1, *widget.grid)
    return torch.from_numpy(values.copy())


def test_it_holds_the_maps_of_its_method_and_prompts(shown):
    explainer = Explainer("ViT-emoji")
    images = explainer.read(PICTURE)
    for method, prompts in (("direct signed", ["a horse", "a sheep"]), ("path", ["a dog"])):
        shown.method, shown.prompts = method, prompts
        targets = explainer.texts(prompts)
        wanted = relevance_maps(explainer.encoder, images, targets, method)[0].cpu()
        assert torch.equal(maps_of(shown), wanted)
        assert shown.signed == (method == "direct signed")
        assert np.allclose(shown.scores, explainer.scores(images, targets)[0].cpu())


def test_a_model_of_load_is_explored_as_its_name_is():
    for name in ("RN-emoji", "SigLIP-emoji"):
        by_name = explore(name, PICTURE, ["a horse"])
        bare = explore(load(name)[0], PICTURE, ["a horse"], name="mine")
        assert bare.methods == by_name.methods
        assert torch.equal(maps_of(bare), maps_of(by_name))
        assert bare.scores == by_name.scores
        assert bare.picture == by_name.picture
        assert repr(bare) == f"Exploration(mine, {bare.method}, ['a horse'])"


def test_a_model_without_its_texts_is_refused():
    with pytest.raises(TypeError, match=r"from_open_clip\(model, preprocess, tokenizer\)"):
        explore(torch.nn.Linear(2, 2), PICTURE)


def test_a_prompt_that_cannot_be_read_is_refused_in_a_sentence(shown):
    shown.prompts = ["a horse", "horse " * 200]
    assert "text is too long" in shown.problem
    assert shown.maps == b""
    shown.prompts = ["a horse"]
    assert shown.problem == ""


def test_it_is_one_module():
    assert "import " not in script()


def test_it_is_drawn_and_answers_in_a_browser(shown):
    require_browser()
    shown.method, shown.prompts = "direct signed", ["a horse", "a sheep"]
    state = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in shown.get_state().items()
        if name in shown.trait_names(sync=True) and not name.startswith("_")
    }
    given = {"script": script(), "state": state, "bytes": ["picture", "maps"]}
    seen = node("widget.mjs", given=given)
    assert seen["errors"] == []
    assert seen["changed"] == {"prompts": ["a horse", "a sheep", "a dog"], "method": "path"}
    assert [text.split("  ")[0] for text in seen["prompts"]] == ["a horse", "a sheep"]
    assert seen["key"][0].endswith("against")
    assert seen["reading"].endswith("% of the strongest)")
    assert seen["colours"] > 1000


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The address of a notebook with the widget, in a JupyterLab of its own."""
    require_browser()
    pytest.importorskip("jupyterlab")
    shown = f"from widget import explore\nexplore('ViT-emoji', {str(PICTURE)!r}, ['a horse'])"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python"}}
    notebook = new_notebook(cells=[new_code_cell(shown)], metadata=kernel)
    nbformat.write(notebook, tmp_path / "widget.ipynb")
    for variable in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("PYTHONPATH", str(PICTURE.parents[1] / "code"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    options = [f"--ServerApp.port={port}", "--IdentityProvider.token=", "--ip=127.0.0.1"]
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen([*command, *options], cwd=tmp_path, stdout=log, stderr=log)
    while server.poll() is None:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/api"):
            break
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/lab/tree/widget.ipynb"
    server.terminate()
    server.wait()


def test_it_works_in_jupyterlab(lab):
    seen = node("lab.mjs", lab)
    explainer = Explainer("ViT-emoji")
    images, prompts = explainer.read(PICTURE), ["a horse", "a dog"]
    targets = explainer.texts(prompts)
    scores = explainer.scores(images, targets)[0].tolist()
    chips = [f"{prompt}  {score:.1f}" for prompt, score in zip(prompts, scores, strict=True)]
    assert seen["prompts"] == chips[:1]
    assert seen["then"] == chips
    most = relevance_maps(explainer.encoder, images, targets)[0, 1].max().item()
    assert float(seen["key"][0]) == pytest.approx(most, rel=0.01)
    assert seen["colours"] > 1000

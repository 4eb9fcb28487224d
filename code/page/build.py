"""Write the page: a folder that any static host serves.

python -m page.build                  into build/page, as `make page` does
python -m page.build --models a.pt    with other models: whatever clip_.load takes
python -m page.build --serve          and show it at 127.0.0.1

It holds models with their explanations (`export.py`), the runtime for them (onnxruntime-web, which
`npm install` puts beside this file), the tokenizer's tables (`texts.py`), examples, and `static/`.
"""

import argparse
import gzip
import json
import shutil
import tempfile
import webbrowser
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from checkpoints import EMBEDDED
from checkpoints.errors import CheckpointError
from clip_ import load
from explainer import digest_of, shown_name
from files import whole_file
from methods import is_signed
from model import CLIP
from page import texts
from page.closed_forms import TextForms
from page.export import export, forms_of, require_exportable
from preprocessing import Preprocessing

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STATIC, RUNTIME = HERE / "static", HERE / "node_modules" / "onnxruntime-web" / "dist"
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"  # the CPU's, the smallest
MODELS = ("ViT-emoji", "RN-emoji")
MOST = 45_000_000  # bytes in all
EXAMPLES = {  # of Images/, and what to ask of them
    "horse&sheep.png": ["a horse", "a sheep"],
    "car&bicycle&tree.png": ["a car", "a bicycle", "a tree"],
    "astronaut&rocket&flag.png": ["an astronaut", "a rocket", "a flag", "a whale"],
    "cat&dog.png": ["a cat", "a dog"],
    "ship&dolphin.png": ["a ship", "a dolphin"],
    "elephant&zebra.png": ["an elephant", "a zebra"],
    "faces.png": ["a happy face", "a sad face", "an angry face", "a surprised face"],
    "astronaut.png": ["an astronaut", "a rocket", "a flag"],
}
PORT = 8000


def build(folder: Path, models: tuple[str, ...] = MODELS) -> None:
    """Write the page into a folder. Models that are there already are not exported again.

    Raises ValueError for a folder with other things, for a page that would be too large, for two
    models of one name, and for one whose pictures are prepared in a way that the page does not
    know; TypeError for another network than `CLIP`; and FileNotFoundError without onnxruntime-web.
    """
    names = list(map(shown_name, models))
    if len(set(names)) < len(names):
        raise ValueError(f"each model of the page needs a name of its own; got {', '.join(names)}")
    if folder.is_dir() and any(folder.iterdir()) and not is_page(folder):
        raise ValueError(
            f"{folder} holds other things than the page: give one that is new or empty"
        )
    if not RUNTIME.is_dir():
        raise FileNotFoundError(
            f"there is no onnxruntime-web in {HERE}: run npm install there, as make page does"
        )
    networks = list(map(shown_on_pages, models))
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(STATIC, folder, dirs_exist_ok=True)
    shutil.copy(RUNTIME / SCRIPT, folder / "runtime.js")
    pack((RUNTIME / WASM).read_bytes(), folder / "runtime.bin")
    pack(texts.vocabulary().encode(), folder / "vocabulary.bin")
    pack(json.dumps(texts.tables()).encode(), folder / "tables.bin")
    (folder / "examples").mkdir(exist_ok=True)
    for name in EXAMPLES:
        shutil.copy(ROOT / "Images" / name, folder / "examples" / name)
    for mark in folder.glob("models/*/made_of"):
        if mark.parent.name not in names:  # of a page before
            shutil.rmtree(mark.parent)
    contents = {
        "models": [add_model(*one, folder) for one in zip(names, networks, strict=True)],
        "examples": EXAMPLES,
        "concepts": known_concepts() if set(models) <= set(EMBEDDED) else [],
    }
    with whole_file(folder / "contents.json") as unfinished:
        unfinished.write_text(json.dumps(contents, indent=1), encoding="utf-8")
    bytes_in_all = size(folder)
    if bytes_in_all > MOST:
        raise ValueError(
            f"the page has {bytes_in_all:,} bytes, more than {MOST:,}: take fewer models"
        )


def is_page(folder: Path) -> bool:
    """Whether a folder holds the page, or what there is of it when its writing was stopped."""
    return (folder / "engine.js").is_file() or any(folder.glob("models/*/made_of"))


def known_concepts() -> list[str]:
    """What the embedded models were trained on, which is all that they know."""
    concepts = json.loads((ROOT / "code" / "embedded" / "concepts.json").read_text("utf-8"))
    return [concept["phrases"][0] for concept in concepts]


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def shown_on_pages(name: str) -> CLIP:
    """A model, if the page can show it."""
    model, _ = load(name, "cpu")
    require_exportable(model)
    preprocessing: Preprocessing = model.visual.preprocessing
    if (preprocessing.resize_mode, preprocessing.interpolation) != ("shortest", "bicubic"):
        raise ValueError(
            f"the page resizes pictures bicubically by their shorter side; {name} reads them "
            f"resized by {preprocessing.interpolation}, {preprocessing.resize_mode}"
        )
    return model


def add_model(name: str, model: CLIP, folder: Path) -> dict:
    """Export a model into a folder of its name, and return what the page must know of it."""
    visual = model.visual
    own, made_of = folder / "models" / name, digest(model)
    mark = own / "made_of"
    if not mark.is_file() or mark.read_text() != made_of:
        with tempfile.TemporaryDirectory() as graphs:
            export(model, graphs)
            own.mkdir(parents=True, exist_ok=True)
            for part in ("image", "text"):
                pack(parted(Path(graphs, f"{part}.onnx").read_bytes()), own / f"{part}.bin")
        mark.write_text(made_of)
    methods = forms_of(visual).methods
    return {
        "name": name,
        "side": visual.input_resolution,
        "width": visual.output_dim,
        "mean": visual.preprocessing.mean,
        "std": visual.preprocessing.std,
        "floor": visual.preprocessing.floor,
        "length": model.context_length,
        "methods": methods,
        "textMethods": TextForms.methods,
        "signed": list(filter(is_signed, methods)),
        "bytes": size(own),
    }


def digest(model: CLIP) -> str:
    """Of the weights, and of the code that writes graphs of them."""
    found = sha256(digest_of(model).encode())
    methods = sorted((ROOT / "code" / "methods").glob("*.py"))
    for path in (HERE / "closed_forms.py", HERE / "export.py", *methods):
        found.update(path.read_bytes())
    return found.hexdigest()


def pack(content: bytes, path: Path) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_bytes(gzip.compress(content, mtime=0))


def parted(content: bytes) -> bytes:
    """Bytes at even places, then those at odd ones. It saves a tenth: of numbers in half precision
    the second bytes are much alike. `joined` in static/files.js undoes it.
    """
    return content[::2] + content[1::2]


def serve(folder: Path, port: int) -> None:
    server = ThreadingHTTPServer(
        ("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=folder)
    )
    address = f"http://127.0.0.1:{server.server_port}"
    print(f"{address}  (Ctrl+C ends it)")
    webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "page", metavar="FOLDER")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--serve", nargs="?", type=int, const=PORT, metavar="PORT")
    args = parser.parse_args()
    try:
        build(args.output, tuple(args.models))
    except (CheckpointError, OSError, TypeError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"wrote {args.output}: {size(args.output) / 1e6:.1f} MB")
    if args.serve is not None:
        serve(args.output, args.serve)


if __name__ == "__main__":
    main()

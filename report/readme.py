"""Write README's measured parts from results/: each between its two marks, and nothing else."""

import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "code"))

from checkpoints import EMBEDDED  # noqa: E402
from figures import short  # noqa: E402
from files import whole_file  # noqa: E402

# The judges, trained as public models were: the default method, others explained likewise.
JUDGES = {
    "ViT-plain": ("direct", "ViT-emoji"),
    "RN-plain": ("pool", "RN-emoji"),
    "SigLIP-emoji": ("direct",),
}
MANY = 10_000_000  # pictures, to which a folder's rate is carried on


def read(path: str) -> list[dict]:
    with (ROOT / "results" / path).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def where(rows: list[dict], **wanted) -> list[dict]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == str(value) for key, value in wanted.items())]


def markdown(*lines: tuple) -> str:
    """A table; the first line is its head."""
    head, *rows = [f"| {' | '.join(map(str, line))} |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rows])


def with_interval(row: dict) -> str:
    return f"{float(row['mean']):.3f} [{float(row['low']):.3f}, {float(row['high']):.3f}]"


def figure(value: str) -> str:
    """A number of a table, short; nothing where nothing was measured."""
    return "" if value == "nan" else short(float(value))


def glance() -> str:
    """How well methods find objects, and what they cost."""
    localisation, gains = read("evaluation/localisation.csv"), read("evaluation/against.csv")
    costs = {(row["model"], row["method"]): row["forwards"] for row in read("evaluation/cost.csv")}
    first = localisation[0]
    tables = "\n\n".join(
        ranking(judge, others, gains, costs) for judge, (_, *others) in JUDGES.items()
    )
    figures = "\n".join(
        f"![Pointing, energy, IoU and average precision on {judge}]"
        f"(results/evaluation/{judge}_localisation.png)"
        for judge in JUDGES
    )
    return f"""{named()}

{tables}

Rows in the order of average precision on the judge; baselines, which know nothing of the target or
of the model, in italics. *Insertion, gain*: the area under the similarity while pixels are shown,
less that of {original(gains)}, on the same pictures. On {first["pictures"]} scenes of one to four
objects in a style that no model has seen (chance of pointing: {float(first["chance"]):.3f});
insertion on scenes of two; methods that run the network many times on fewer. In brackets 95 %
bootstrap intervals over scenes; time for all targets of a picture in forward passes. Measured by
`make evaluate`{not_yet(localisation)}; the [report](CLIP_Explainability.pdf) says what it means,
and [all tables](results/evaluation) hold more.

{figures}

With `against=` the similarity is explained less its mean with other texts: all prompts that there
are, eight of them at random, or those of the objects in the picture, of which there are several:

{against_others()}"""


def not_yet(rows: list[dict]) -> str:
    """Which models the tables lack."""
    measured = {row["model"] for row in rows}
    lacking = [f"`{name}`" for name in EMBEDDED if name not in measured]
    return f", which measures {', '.join(lacking)} too, not in the tables yet" if lacking else ""


def named() -> str:
    """How often the models name an object right."""
    rows = read("evaluation/naming.csv")
    head, values = zip(*((row["model"], with_interval(row)) for row in rows), strict=True)
    about = f"names an object of the unseen style right, among {rows[0]['prompts']}"
    return markdown(("", *head), (about, *values))


def ranking(judge: str, others: list[str], gains: list[dict], costs: dict) -> str:
    """All methods and baselines on a judge, the best first, and how they point on other models."""
    every = where(read("evaluation/localisation.csv"), objects="all")
    mine = where(every, model=judge)
    others = [model for model in others if where(every, model=model)]
    ordered = sorted(where(mine, measure="AP"), key=lambda row: -float(row["mean"]))
    measures = ("pointing", "AP", "energy")
    head = (judge, *measures, "insertion, gain", "forwards", *(f"pointing, {m}" for m in others))
    lines = [head]
    for row in ordered:
        method, baseline = row["method"], row["kind"] == "baseline"
        found = [with_interval(where(mine, method=method, measure=one)[0]) for one in measures]
        about = {"model": judge, "method": method, "rival": "the original's"}
        gain = where(gains, measure="insertion, similarity", **about)
        beside = [where(every, model=m, method=method, measure="pointing") for m in others]
        lines.append(
            (
                f"*{method}*" if baseline else f"`{method}`",
                *found,
                with_interval(gain[0]) if gain else "",
                "" if baseline else figure(costs[judge, method]),
                *(f"{float(some[0]['mean']):.3f}" if some else "" for some in beside),
            )
        )
    return markdown(*lines)


def against_others() -> str:
    """What is gained where a target's similarity less that of other texts is explained."""
    rows = read("evaluation/others.csv")
    among = list(dict.fromkeys(row["against"] for row in rows))
    lines = [("model, method", "gain in", *(f"against {one}" for one in among))]
    for model, method in dict.fromkeys((row["model"], row["method"]) for row in rows):
        for measure in ("pointing", "energy"):
            found = where(rows, model=model, method=method, measure=measure)
            lines.append((f"{model}, `{method}`", measure, *map(with_interval, found)))
    return markdown(*lines)


def original(gains: list[dict]) -> str:
    """The methods of the original project, to which others are compared."""
    rivals = where(gains, rival="the original's")
    return " and ".join(f"`{name}`" for name in dict.fromkeys(row["than"] for row in rivals))


def speed() -> str:
    """Time and memory beside a forward pass, what there was, and other libraries."""
    rows = read("benchmarks/speed.csv")
    rivals = read("benchmarks/rivals.csv")
    networks = ("ViT-B/32", "ViT-B/16")
    counts = [(model, targets) for model in networks for targets in (1, 9, 64)]
    vit = [("8 images", *(f"{model}, K = {targets}" for model, targets in counts), "MiB")]
    gains = [("8 images", *(f"{model}, K = {targets}" for model, targets in counts))]
    for method in dict.fromkeys(row["method"] for row in where(rows, model="ViT-B/16", targets=9)):
        found = [
            where(rows, model=model, batch=8, targets=targets, method=method)[0]
            for model, targets in counts
        ]
        peak = where(found, model="ViT-B/16", targets=9)[0]["peak_mib"]
        vit.append((f"`{method}`", *(figure(row["forwards"]) for row in found), figure(peak)))
        if found[0]["speed_up"] != "nan":
            gains.append((f"`{method}`", *(f"{figure(row['speed_up'])}x" for row in found)))
    resnet = [("RN50", "images", "K = 1", "K = 9", "faster than grad-cam, K = 9", "peak, MiB")]
    cams = [row["method"] for row in where(rows, model="RN50") if row["targets"] != "0"]
    for method in dict.fromkeys(cams):
        found = where(rows, model="RN50", method=method)
        costs = {row["targets"]: figure(row["forwards"]) for row in found}
        last = found[-1]
        known = last["targets"] == "9" and last["speed_up"] != "nan"
        times = f"{figure(last['speed_up'])}x" if known else ""
        cells = (costs.get("1", ""), costs.get("9", ""), times, figure(last["peak_mib"]))
        resnet.append((f"`{method}`", last["batch"], *cells))
    others = [("K = 9", "library", "images", "forwards", "ours is faster", "peak, MiB (ours)")]
    for model, batch, ours, names in (
        ("ViT-B/16", 1, "LeGrad", ("legrad LeGrad",)),
        ("RN50", 8, "GradCAM", ("grad-cam GradCAM", "torchcam GradCAM", "captum GradCAM")),
    ):
        for row in where(rivals, model=model, batch=batch, targets=9):
            if row["method"] in names:
                (mine,) = where(rivals, model=model, batch=batch, targets=9, method=ours)
                peaks = f"{figure(row['peak_mib'])} ({figure(mine['peak_mib'])})"
                cells = (batch, figure(row["forwards"]), f"{figure(row['speed_up'])}x", peaks)
                others.append((f"{model}, `{ours}`", row["method"], *cells))
    theirs = [("8 images", "read from", "method", "K = 1", "K = 9", "K = 100")]
    anybody = read("benchmarks/anybody.csv")
    for model in dict.fromkeys(row["model"] for row in anybody):
        found = where(anybody, model=model)
        cells = [figure(row["forwards"]) for row in found]
        theirs.append((model, found[0]["pooling"], "`last grad`", *cells))
    folder = read("benchmarks/throughput.csv")
    parts = list(dict.fromkeys(row["what"] for row in folder))
    rates = [("pictures a second", *parts)]
    for model in dict.fromkeys(row["model"] for row in folder):
        found = where(folder, model=model)
        rates.append((model, *(f"{float(row['images a second']):.0f}" for row in found)))
    pictures, prompts = folder[0]["images"], folder[0]["targets"]
    stored = " and ".join(
        f"{float(row['bytes an image']) / 1000:.1f} kB ({row['model']})"
        for row in where(folder, what="end to end")
    )
    here = rows[0]
    torch, threads, machine = here["torch"], here["threads"], here["machine"]
    forward, pair = (
        [where(rows, model=m, method=name)[-1] for m in networks]
        for name in ("forward", "original, one pair")
    )
    peaks = [f"{figure(a['peak_mib'])} and {figure(b['peak_mib'])}" for a, b in (forward, pair)]
    return f"""`make bench` with torch {torch}, float32, on {threads} threads of "{machine}";
random weights of the official shapes. In forwards, a fused inference pass of the same images each;
MiB is the peak memory of one call, ViT-B/16, K = 9:

{markdown(*vit)}

A forward takes {peaks[0]} MiB (ViT-B/32 and ViT-B/16); the original project's algorithm, a forward
and a full backward pass for every pair of image and target, {peaks[1]} for one pair. So many times
faster than that are its methods here:

{markdown(*gains)}

CAMs of RN50, in forwards, against PyPI's grad-cam, which takes one target at a time (its
`AblationCAM` is timed on an eighth of the channels; `GScoreCAM` costs as much for every target):

{markdown(*resnet)}

Other libraries in one run with the same method here:

{markdown(*others)}

Models that are not ours, as they are, in forwards of their own:

{markdown(*theirs)}

![How time grows with tokens, blocks, targets and images](results/benchmarks/growth.png)

*Exponents of growth, measured and, in brackets, expected from the arithmetic.*

`explain.py` on a folder of {pictures} JPEGs of 500 x 400 pixels, {prompts} prompts each, and what
its parts alone take (`benchmarks/throughput.py`); *as PNG* is a script that writes every map as a
picture. Stored are {stored} a picture.

{markdown(*rates)}

{of_a_folder(read("benchmarks/folder.csv"))}"""


def of_a_folder(rows: list[dict]) -> str:
    """What the processes of the whole command take, and how far it is to ten million pictures."""
    lines = [("", "explaining", "threads each", "pictures a second", "memory at most, MiB")]
    for way in dict.fromkeys(row["way"] for row in rows):
        found = where(rows, way=way)
        memory = ", ".join(f"{row['process']} {int(row['peak MiB']):,}" for row in found)
        about = found[0]
        rate = float(about["images a second"])
        cells = (about["explaining"], about["threads each"], f"{rate:.1f}", memory)
        lines.append((f"`{way}`", *cells))
    days = MANY / rate / 86_400
    maps, pictures = (MANY * float(about[name]) / 1e9 for name in ("bytes an image", "bytes read"))
    on = f"{about['cores']} cores, with a load of {about['load']} by others"
    return f"""The whole command on {int(about["images"]):,} such pictures with {about["model"]}, on
{on} (`benchmarks/folder.py`):

{markdown(*lines)}

At the last rate {MANY:,} pictures take {days:.1f} days on one such machine, and on ten
{24 * days / 10:.0f} hours; their maps have {maps:,.0f} GB, they themselves {pictures:,.0f}. That is
computed, not measured: it holds while no machine waits for the folders they share, from which each
reads {rate * float(about["bytes read"]) / 1e6:.1f} MB a second."""


def map_use() -> str:
    """Masks and boxes made of maps, and how often the check of prompts warns."""
    judged = where(read("evaluation/map_use.csv"), scenes="judged on")
    checks = where(read("evaluation/prompt_check.csv"), scenes="judged on")
    (along,) = {row["enlarged"] for row in judged} - {"bilinear"}
    lines = [("", "IoU of masks, bilinear", "along edges", "IoU of boxes, bilinear", "along edges")]
    for judge, (method, *others) in JUDGES.items():
        for model in (judge, *others):
            mine = where(judged, model=model, method=method, rule="Otsu")
            found = [
                with_interval(where(mine, measure=measure, enlarged=way)[0])
                for measure in ("IoU of the mask", "IoU of the box")
                for way in ("bilinear", along)
            ]
            lines.append((f"{model}, `{method}`", *found))
    vit, resnet, _ = JUDGES

    def warned(warning: str, model: str, *names: str) -> str:
        """How often there is a warning, of each kind of maps."""
        found = (where(checks, maps=n, warning=warning, model=model)[0] for n in names)
        shares = (f"{percent(row)} for `{row['maps']}`" for row in found)
        return f"{', '.join(shares)} ({model})"

    def percent(row: dict) -> str:
        low, high = (f"{100 * float(row[end]):.0f}" for end in ("low", "high"))
        return f"{100 * float(row['mean']):.0f} % [{low}, {high}]"

    mixed = min(float(row["mean"]) for row in checks if row["maps"].startswith("95%"))
    seeing = ("pool", "GradCAM", "LayerCAM", "XGradCAM")
    absent, present = (
        " and ".join(
            f"{percent(where(checks, maps='presence', warning=due, model=model)[0])} ({model})"
            for model in (vit, resnet)
        )
        for due in ("due", "not due")
    )
    return f"""{markdown(*lines)}

On {judged[0]["pictures"]} scenes in the style never seen; options were chosen on scenes in others.
Emoji have sharp edges and plain colours: expect less of photographs. `prompt_check` warns where
maps hardly depend on the prompt, in {warned("due", vit, "attention", "rollout")} and
{warned("due", resnet, "EigenCAM")}, and on every model in {100 * mixed:.0f} % at least where a
twentieth of the map comes from the prompt. Of methods that ask for the prompt it warns in
{warned("not due", vit, "direct", "path", "last grad")} and
{warned("not due", resnet, *seeing)}.
What a picture does not show it names in {absent};
wrongly what is shown in {present}. Measured by `make evaluate`."""


def words() -> str:
    """How often the words of what a picture shows win."""
    rows = where(read("evaluation/text.csv"), measure="things")

    def won(method: str) -> str:
        found = [(where(rows, method=method, model=model)[0], model) for model in JUDGES]
        return ", ".join(f"{with_interval(row)} ({model})" for row, model in found)

    return f"""Where a text names what a picture shows and something else, `path` gives the former
more in {won("path")} of {int(rows[0]["pairs"]):,} pairs,
leaving words out in {won("leave out")},
raw attention in {won("attention")}:
[all methods](results/evaluation/text.csv), measured by `make evaluate`."""


SECTIONS = {"glance": glance, "speed": speed, "map use": map_use, "words": words}


def marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: made by `make report` -->", f"<!-- end of {name} -->"


def main() -> None:
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    for name, section in SECTIONS.items():
        start, end = marks(name)
        part = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
        made = f"{start}\n{section()}\n{end}"
        text, count = part.subn(lambda _, made=made: made, text)
        if count != 1:
            raise SystemExit(
                f"README.md must have the marks of {name!r} once; it has them {count} times"
            )
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

"""Write README's "Results at a glance" from results/: between its two marks, and nowhere else."""

import csv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- results at a glance: made by `make report` -->", "<!-- end of results -->"
SHOWN = {
    "ViT-emoji": ("last grad", "all grads", "gradcam", "attention", "edges", "centre"),
    "RN-emoji": ("GradCAM", "LayerCAM", "AblationCAM", "XGradCAM", "edges", "centre"),
}


def read(path: str) -> list[dict]:
    with (ROOT / "results" / path).open() as file:
        return list(csv.DictReader(file))


def number(row: dict) -> str:
    return f"{float(row['mean']):.3f} [{float(row['low']):.3f}, {float(row['high']):.3f}]"


def table() -> str:
    localisation = read("evaluation/localisation.csv")
    faithfulness = read("evaluation/faithfulness.csv")
    costs = {(row["model"], row["method"]): row["forwards"] for row in read("evaluation/cost.csv")}
    lines = [
        "| model | method | pointing | energy | insertion | forwards |",
        "|---|---|---|---|---|---|",
    ]
    for model, methods in SHOWN.items():
        for method in methods:
            found = {
                row["measure"]: row
                for row in localisation
                if (row["model"], row["method"], row["objects"]) == (model, method, "all")
            }
            (insertion,) = (
                row
                for row in faithfulness
                if (row["model"], row["method"]) == (model, method)
                and row["measure"] == "insertion, similarity, blur"
            )
            baseline = found["pointing"]["kind"] == "baseline"
            name = f"*{method}*" if baseline else f"`{method}`"
            cost = "" if baseline else f"{float(costs[model, method]):.2f}"
            cells = (number(found["pointing"]), number(found["energy"]), number(insertion))
            lines.append(f"| {model} | {name} | {' | '.join(cells)} | {cost} |")
    return "\n".join(lines)


def section() -> str:
    row = read("evaluation/localisation.csv")[0]
    return f"""{START}
{table()}

![Pointing, energy, IoU and average precision of all methods](results/evaluation/localisation.png)

On {row["pictures"]} scenes of one to four objects in a style that neither model has seen (chance of
pointing: {float(row["chance"]):.3f}); insertion on scenes of two. In brackets 95 % bootstrap
intervals; baselines in italics; time for all targets of a picture in forward passes. Measured by
`make evaluate`; the [report](CLIP_Explainability.pdf) says what it means.
{END}"""


def main() -> None:
    path = ROOT / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    path.write_text(before + section() + after, encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

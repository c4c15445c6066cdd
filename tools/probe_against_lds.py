"""How often the probe is right: its verdict before a run against the LDS that the run then has.

    python -m tools.probe_against_lds [--lds FILE.jsonl] [--out FILE.jsonl] [--every N] [--below LDS]

Probes the recipes of `tools.grid` on the sample, four trainings of half the steps each, and compares the verdict with
the LDS of the same recipes: of `--lds`, what `python -m tools.grid --out` wrote, or without it of the table in
docs/trust.md (64 subsets, 16 targets). Recipes whose activation or norm the form does not offer are left out. Prints a
line a recipe, and Markdown at the end; docs/trust.md holds it. What stands in `--out` already is not probed again, and
counts in the table. Some ten seconds a recipe on a CPU core.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from engine import device
from engine.analysis import lds as agreements
from engine.analysis.trust import GOOD_LDS, LEVELS, POOR_LDS
from engine.config import RunConfig
from engine.jobs import probe
from tools.grid import SAMPLE, config_of

DOCUMENT = Path(__file__).parents[1] / "docs" / "trust.md"
COLUMNS = {  # of the table in docs/trust.md, with the names of the settings in tools/grid.py
    "batch": "batch_size",
    "peak rate": "peak_lr",
    "logits ×": "scale",
    "weight decay": "weight_decay",
    "warm-up": "warmup",
    "LDS (95 % interval)": "lds",
}
BASE = {name: SAMPLE[name] for name in ("norm", "activation", "scale", "width", "seed")}
BASE |= {name: SAMPLE[name] for name in ("epochs", "batch_size", "peak_lr", "warmup", "weight_decay")}
OFFERED = {"norm": "batch", "activation": "gelu"}


def of_document(text: str) -> list[dict]:
    """Rows of the grid's table: settings as `tools.grid` has them, and `lds`; none of recipes that diverged."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head = next(i for i, line in enumerate(lines) if line.startswith("| batch | peak rate | epochs | width |"))
    names = [COLUMNS.get(name, name) for name in cells(lines[head])]
    rows = []
    for line in lines[head + 2 :]:
        if len(values := cells(line)) != len(names):
            break
        row = dict(zip(names, values, strict=True))
        if not row["lds"]:
            continue
        settings = {name: type(default)(row[name]) for name, default in BASE.items() if name in row}
        rows.append({**settings, "lds": float(row["lds"].split()[0])})
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def of_grid(path: Path) -> list[dict]:
    """The same of what `tools.grid` wrote."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if "diverged" not in row]


def configured(row: dict) -> RunConfig:
    """The recipe's run."""
    return config_of({**SAMPLE, **{name: row[name] for name in BASE}})


def offered(rows: Iterable[dict]) -> list[dict]:
    return [row for row in rows if all(row[name] == value for name, value in OFFERED.items())]


def level(lds: float) -> str:
    return LEVELS[0] if lds >= GOOD_LDS else LEVELS[1] if lds >= POOR_LDS else LEVELS[2]


def markdown(rows: list[dict]) -> str:
    """By verdict: how many recipes, their LDS, and how many have the level that was foretold."""
    lines = [
        "| the probe says | recipes | LDS, lowest | median | highest | LDS ≥ 0.9 | 0.6 to 0.9 | < 0.6 |",
        "|" + "---|" * 8,
    ]
    for verdict in LEVELS:
        values = np.array([row["lds"] for row in rows if row["verdict"] == verdict])
        if not len(values):
            continue
        counts = [sum(level(value) == each for value in values) for each in LEVELS]
        figures = [f"{values.min():.2f}", f"{np.median(values):.2f}", f"{values.max():.2f}", *map(str, counts)]
        lines.append("| " + " | ".join([verdict, str(len(values)), *figures]) + " |")
    right = sum(row["verdict"] == level(row["lds"]) for row in rows)
    known = [row for row in rows if np.isfinite(row["probe"])]
    ranks = float(agreements.spearman(*(np.array([[row[name] for row in known]]) for name in ("probe", "lds")))[0])
    return "\n".join(lines) + f"\n\nRight: {right} of {len(rows)}. Rank correlation of probe and LDS: {ranks:.2f}."


def main() -> None:
    given = argparse.ArgumentParser()
    given.add_argument("--lds", type=Path, help="what tools.grid --out wrote; the table of docs/trust.md without it")
    given.add_argument("--out", type=Path, help="JSON lines, written as they come")
    given.add_argument("--every", type=int, default=1, help="every so many recipes, in the order of their LDS")
    given.add_argument("--below", type=float, default=1.0, help="recipes of a lower LDS alone")
    call = given.parse_args()
    rows = of_document(DOCUMENT.read_text(encoding="utf-8")) if call.lds is None else of_grid(call.lds)
    rows = [row for row in offered(rows) if row["lds"] < call.below]
    rows = sorted(rows, key=lambda row: row["lds"])[:: call.every]
    print(f"{device.describe()}; {len(rows)} recipes", flush=True)
    done = of_grid(call.out) if call.out is not None and call.out.exists() else []
    known = [{name: row[name] for name in BASE} for row in done]
    rows = [row for row in rows if {name: row[name] for name in BASE} not in known]
    with tempfile.TemporaryDirectory() as root:
        for row in rows:
            report = probe.measure(Path(root), configured(row))
            values = report.metasmoothness or (float("nan"),)
            done.append({**row, "probe": float(np.mean(values)), "each": values, "verdict": report.verdict.level})
            varied = {name: value for name, value in row.items() if name in BASE and value != BASE[name]}
            print(varied, f"probe {done[-1]['probe']:.2f}, {report.verdict.level}; LDS {row['lds']:.2f}", flush=True)
            if call.out is not None:
                with call.out.open("a", encoding="utf-8") as out:
                    out.write(json.dumps({**done[-1], "seconds": report.seconds}) + "\n")
    print("\n" + markdown(done))


if __name__ == "__main__":
    main()

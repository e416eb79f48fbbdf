"""Anomaly detection on ADBench's tables: the estimator by its defaults beside PyOD's detectors by theirs.

    python benchmarks/anomaly.py [--write benchmarks/anomaly.md]       # an hour; the first time, downloads
    python benchmarks/anomaly.py --tables glass wbc --seeds 0          # a part

Two modes: `all`, fitted on all rows without their labels, which are scored, too; and `normal`, fitted on half of the
normal rows, scored on all others. Each contestant fits in a process of its own, which waits while another works. What
is measured is kept in a file (--rows), so that a run that was ended goes on, and the page is made of that alone;
`--again NAME` measures a contestant anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parent
DATA = ROOT.parent / "shared" / "data" / "adbench"
OURS = "ours"
PEERS = ("AutoEncoder", "VAE", "IForest", "ECOD", "PCA")
RIVALS = ("AutoEncoder", "VAE")  # the networks among them
MODES = {"all": "fitted on all rows", "normal": "fitted on half of the normal rows"}
SEEDS, CAP = (0, 1, 2), 8000
Row = dict[str, Any]  # table, mode, seed, name, auroc, seconds


# ---- what a contestant gets, and what it gives --------------------------------------------------------------------


def read(folder: Path, table: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, columns) in float64, and which are anomalies (n,)."""
    import pyarrow.parquet

    found = pyarrow.parquet.read_table(sorted((folder / table).glob("*.parquet")))
    return np.stack(found["x"].to_numpy()).astype(np.float64), found["anomaly"].to_numpy().astype(bool)


def divide(strange: np.ndarray, mode: str, seed: int, cap: int = CAP) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the rows to fit and of those to score, of at most `cap` rows that the seed draws."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(strange))[:cap]
    if mode == "all":
        return rows, rows
    normal = rows[~strange[rows]]
    half = normal[: len(normal) // 2]
    return half, np.setdiff1d(rows, half)


def auroc(strange: np.ndarray, scores: np.ndarray) -> float:
    """The share of pairs of an anomaly and a normal row in which the anomaly scores more; ties count half.

    What is no number counts as infinite.
    """
    from scipy.stats import rankdata

    ranks, n = rankdata(np.nan_to_num(scores, nan=np.inf, posinf=np.inf, neginf=-np.inf)), int(strange.sum())
    return float((ranks[strange].sum() - n * (n + 1) / 2) / (n * (len(strange) - n)))


def detect(name: str, seed: int, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Fits a contestant, and scores: higher is stranger."""
    if name == OURS:
        from lightning_ae import AutoencoderEstimator

        return -AutoencoderEstimator(random_state=seed).fit(train).score_samples(test)
    from importlib import import_module

    module = {"AutoEncoder": "auto_encoder", "VAE": "vae"}.get(name, name.lower())
    options: dict[str, Any] = {} if name in ("ECOD", "PCA") else {"random_state": seed}
    quiet: dict[str, Any] = {"verbose": 0} if name in RIVALS else {}
    detector = getattr(import_module(f"pyod.models.{module}"), name)(**options, **quiet)
    found: np.ndarray = detector.fit(train).decision_function(test)
    return found


def work() -> None:
    """Answers what standard input asks, a line of JSON each."""
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    tables: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        table, name = asked["table"], asked["name"]
        if table not in tables:
            tables = {table: read(Path(asked.pop("folder")), table)}
        rows, strange = tables[table]
        fitted, scored = divide(strange, asked["mode"], asked["seed"], asked["cap"])
        if asked["warm"]:  # imports and first calls are no contestant's time
            detect(name, 0, rows[:200], rows[:10])
        started, wall = time.process_time(), time.perf_counter()
        scores = detect(name, asked["seed"], rows[fitted], rows[scored])
        seconds = {"seconds": time.process_time() - started, "wall": time.perf_counter() - wall}
        answer = {"auroc": auroc(strange[scored], scores), "not_finite": float((~np.isfinite(scores)).mean())}
        print(json.dumps(answer | seconds), file=answers, flush=True)


# ---- the run ------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace, rows: list[Row]) -> None:
    """Measures what `rows` lacks, and adds it there and to the file."""
    from environments import environment  # beside this file, which is not always run as a script

    peers = args.environment, "requirements_anomaly.txt"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    have = {(row["table"], row["mode"], row["seed"], row["name"]) for row in rows}
    workers: dict[str, subprocess.Popen[str]] = {}
    try:
        for seed in args.seeds:
            for table in args.tables:
                for mode in MODES:
                    for name in args.only:
                        if (table, mode, seed, name) in have:
                            continue
                        if warm := name not in workers:
                            python = sys.executable if name == OURS else environment(*peers)
                            command = [python, str(Path(__file__).resolve()), "work"]
                            workers[name] = subprocess.Popen(
                                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
                            )
                        asked = {"table": table, "mode": mode, "seed": seed, "name": name}
                        row = asked | ask(workers[name], asked | {"folder": str(args.data), "cap": CAP, "warm": warm})
                        rows.append(row)
                        save(args.rows, rows)
                        print(json.dumps(row), flush=True)
    finally:
        for worker in workers.values():
            assert worker.stdin is not None
            worker.stdin.close()
            worker.wait()


def ask(worker: subprocess.Popen[str], question: dict[str, Any]) -> dict[str, float]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    print(json.dumps(question), file=worker.stdin, flush=True)
    if not (line := worker.stdout.readline()):
        raise SystemExit(f"{question['name']} failed on {question['table']}")
    answer: dict[str, float] = json.loads(line)
    return answer


def save(file: Path, rows: list[Row]) -> None:
    """Whole or not at all."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    part = file.with_suffix(".part")
    part.write_text(f"[\n{lines}\n]\n")
    part.replace(file)


# ---- the page -----------------------------------------------------------------------------------------------------


def means(rows: list[Row], value: str = "auroc") -> dict[str, dict[str, dict[str, float]]]:
    """Of a mode, of a contestant, of a table: the mean over seeds."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        by_table = found.setdefault(row["mode"], {}).setdefault(row["name"], {})
        by_table.setdefault(row["table"], []).append(row[value])
    return {
        mode: {name: {table: float(np.mean(each)) for table, each in tables.items()} for name, tables in names.items()}
        for mode, names in found.items()
    }


def ahead(ours: dict[str, float], theirs: dict[str, float]) -> int:
    """On how many tables ours is larger."""
    return sum(ours[table] > value for table, value in theirs.items())


def page(rows: list[Row], names: tuple[str, ...] = (OURS, *PEERS)) -> str:
    """Summary, goals and tables of AUROC x 100. A table counts once all contestants have it."""
    return "\n".join(text for mode in MODES if (text := section(rows, mode, names)))


def section(rows: list[Row], mode: str, names: tuple[str, ...]) -> str:
    scores, seconds = (means(rows, value).get(mode, {}) for value in ("auroc", "seconds"))
    tables = sorted(set.intersection(*(set(scores.get(name, ())) for name in names)))
    if not tables:
        return ""
    found = {name: {table: scores[name][table] for table in tables} for name in names}
    mean = {name: float(np.mean(list(each.values()))) for name, each in found.items()}
    taken = {name: sum(seconds[name][table] for table in tables) for name in names}
    wins = {name: ahead(found[OURS], found[name]) for name in names}
    lines = [
        f"## {mode}: {MODES[mode]}\n",
        f"| detector | mean AUROC of {len(tables)} tables | ours is ahead on | seconds for all tables | seeds |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        seeds = sorted({row["seed"] for row in rows if (row["name"], row["mode"]) == (name, mode)})
        against = "" if name == OURS else f"{wins[name]} of {len(tables)}"
        cells = [label(name), f"{100 * mean[name]:.2f}", against, f"{taken[name]:.1f}", ", ".join(map(str, seeds))]
        lines.append(f"| {' | '.join(cells)} |")
    best = max((name for name in names if name != OURS), key=lambda name: mean[name])
    lead = 100 * (mean[OURS] - mean[best])
    goals = {f"ahead of all on the mean (by {lead:+.2f} of {best})": mean[OURS] > mean[best]}
    for name in (name for name in names if name in RIVALS):
        told = f"({wins[name]} of {len(tables)})"
        goals[f"ahead of {name} on two thirds of the tables {told}"] = 3 * wins[name] >= 2 * len(tables)
        goals[f"no more time than {name} ({taken[OURS] / taken[name]:.2f} of it)"] = taken[OURS] <= taken[name]
    lines += ["", *(f"- {'met' if met else 'NOT met'}: {goal}" for goal, met in goals.items()), ""]
    lines += [f"| table | {' | '.join(map(label, names))} |", "|---" * (len(names) + 1) + "|"]
    for table in tables:
        best_here = max(each[table] for each in found.values())
        here = [found[name][table] for name in names]
        cells = [f"**{100 * each:.1f}**" if each == best_here else f"{100 * each:.1f}" for each in here]
        lines.append(f"| {table} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def label(name: str) -> str:
    return name if name == OURS else f"PyOD {name}"


HEAD = """# Anomaly detection

Made by `python benchmarks/anomaly.py --write benchmarks/anomaly.md` from the rows that it keeps in
`benchmarks/anomaly.json`.

ADBench's tables (Han et al. 2022), of larger ones {cap} rows that the seed draws. Ours is `AutoencoderEstimator()` as
it comes; the others are PyOD's ({version}) as they come, on the same rows. One contestant works at a time, in a process
of its own with one thread, and they take turns; a slow one may have fewer seeds, measured in a pass of its own. AUROC x
100 is the mean over seeds; seconds are the processor's for a fit and its scores, summed over tables, a mean over seeds.
"""
CAVEAT = """
Nothing is chosen for a table, but the estimator's defaults were chosen on these same tables, from fifteen to twenty
settings (what the likelihood's scale is of, its tails, how long training lasts, whether it leaves out the strangest
rows), three of which were looked at on all rows of seed 0: they are no held-out result.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="a folder of a folder a table")
    parser.add_argument("--tables", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--only", nargs="+", choices=(OURS, *PEERS), default=[OURS, *PEERS], help="contestants to run")
    parser.add_argument("--again", nargs="+", choices=(OURS, *PEERS), default=[], help="whose rows are forgotten first")
    parser.add_argument("--rows", type=Path, default=HERE / "anomaly.json", help="what was measured")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv" / "anomaly", help="where PyOD lies")
    parser.add_argument("--write", type=Path, help="the page")
    args = parser.parse_args()
    args.tables = args.tables or sorted(each.name for each in args.data.iterdir() if each.is_dir())
    rows = json.loads(args.rows.read_text()) if args.rows.exists() else []
    rows = [row for row in rows if row["name"] not in args.again]
    run(args, rows)
    text = HEAD.format(cap=CAP, version=requirement()) + CAVEAT + lost(rows) + "\n" + page(rows)
    print(text)
    if args.write:
        args.write.write_text(text)


def lost(rows: list[Row]) -> str:
    """Which scores are no numbers, in a line."""
    found = sorted({f"{label(row['name'])} on {row['table']}" for row in rows if row.get("not_finite")})
    return f"\nScores that are not finite, which count as the strangest: {', '.join(found)}.\n" if found else ""


def requirement() -> str:
    lines = (HERE / "requirements_anomaly.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith("pyod")).partition("==")[2]


if __name__ == "__main__":
    work() if sys.argv[1:2] == ["work"] else main()

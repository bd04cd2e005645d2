"""How often the recipe `middle` comes near: ten seeds of each variant, with the default and the published training.

    python benchmarks/middle_seeds.py [--seeds 10] [--json FILE]

Prints one table. A seed counts when every answer lies within the variant's bound: 0.15 (a), 0.02 (b), 0.06 (c).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import keras

from edgeseq.recipes import TrainingReport, train

BOUNDS = {"a": 0.15, "b": 0.02, "c": 0.06}


def errors_of(report: TrainingReport) -> list[float]:
    return [value for name, value in report.metrics.items() if name.startswith("error")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0 to this number, less one")
    parser.add_argument("--json", type=Path, help="also write every report to this file")
    arguments = parser.parse_args()
    reports = []
    print(f"{'variant':8} {'training':10} {'bound':>6} {'within':>7} {'seconds':>8}  error of each seed (the largest)")
    for variant, bound in BOUNDS.items():
        for as_published in (False, True):
            errors, seconds = [], 0.0
            for seed in range(arguments.seeds):
                # Keras keeps every model's graph until told otherwise.
                keras.backend.clear_session()
                with tempfile.TemporaryDirectory() as folder:
                    report = train(
                        "middle", Path(folder) / "m.keras", seed=seed, variant=variant, as_published=as_published
                    )
                errors.append(max(errors_of(report)))
                seconds += report.seconds
                reports.append({"seed": seed, "variant": variant, "as_published": as_published, **report.metrics})
            within = sum(error <= bound for error in errors)
            listed = " ".join(f"{error:.4f}" for error in errors)
            kind = "published" if as_published else "default"
            mean_seconds = seconds / len(errors)
            row = f"{variant:8} {kind:10} {bound:6.2f} {within:3d}/{len(errors):<3d} {mean_seconds:8.1f}  {listed}"
            print(row, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(reports, indent=2) + "\n")


if __name__ == "__main__":
    main()

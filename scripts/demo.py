"""The whole way of a model, by the commands that a user types, on real film reviews."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from edgeseq.bench import Section, read_run, save_picture, write_report
from edgeseq.bench.record import speedup
from edgeseq.bench.units import duration, size, times
from edgeseq.cli.console import console as make_console
from edgeseq.cli.console import section, table
from edgeseq.errors import DataUnavailable, EdgeseqError
from edgeseq.recipes import data, readers
from edgeseq.runtime import Model

# Two epochs are a short training, useful within minutes on two cores. `edgeseq train imdb` alone trains in full.
SHORT = ("--epochs", "2")
# Rows for the quantizer to measure with: training reviews, so that the test reviews stay unseen.
CALIBRATION_ROWS = 512
REVIEWS_SHOWN = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("output"), help="folder for results (output/)")
    parser.add_argument("--data", type=Path, help="folder with imdb/; default: the usual places, then Keras's loader")
    parser.add_argument("--full", action="store_true", help="train in full, some five minutes")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    console = make_console(sys.stdout)
    started = time.perf_counter()
    try:
        reviews = _find_reviews(options.data)
    except EdgeseqError as error:
        if not isinstance(error, DataUnavailable):
            console.print(f"error: {error}", soft_wrap=True)
            return error.exit_code
        console.print(f"The film reviews cannot be had ({error})", soft_wrap=True)
        console.print("So this runs on `middle`: three numbers in, the one in the middle out.\n", soft_wrap=True)
        reviews = None
    demo = Demo(options.output, console)
    if reviews is None:
        demo.middle()
    else:
        demo.imdb(reviews, options.data, full=options.full)
    console.print(f"\nAll of it took {(time.perf_counter() - started) / 60:.1f} minutes.")
    return 0


class Demo:
    """Runs commands and collects what they say for the table and the report."""

    def __init__(self, folder: Path, console: Console):
        self.folder, self.console = folder, console
        self.sections: list[Section] = []

    def imdb(self, reviews: Reviews, data_folder: Path | None, *, full: bool) -> None:
        if not full:
            self.console.print("A short training comes first, some three minutes on two cores; --full trains in full.")
        where = ("--data", str(data_folder)) if data_folder else ()
        training = self.run(
            "train", "imdb", "-o", self.path("imdb.keras"), *(() if full else SHORT), *where, "--overwrite", "--json"
        )
        self.export("imdb", training)
        self.quantize("imdb", reviews.calibration, reviews.calibration_labels)
        accuracies = self.accuracies(reviews)
        run = self.bench("imdb")
        predictions = self.predictions(reviews)
        self.finish("imdb", training, run, accuracies, predictions)

    def middle(self) -> None:
        training = self.run("train", "middle", "-o", self.path("middle.keras"), "--overwrite", "--json")
        self.export("middle", training)
        rows = np.arange(1, 200, dtype=np.float32)[:, None, None] + np.arange(3, dtype=np.float32)[None, :, None]
        self.quantize("middle", rows, None)
        run = self.bench("middle")
        answer = Model(self.path("middle-int8.onnx"))(np.array([[[13], [14], [15]]], np.float32))
        self.console.print(f"\nThe middle of 13, 14, 15 is {float(answer[0, 0]):.2f}, says middle-int8.onnx.")
        self.finish("middle", training, run, [], None)

    def export(self, name: str, training: dict) -> None:
        self.run("export", training["model_path"], "-o", self.path(f"{name}.onnx"), "--overwrite")
        self.run("inspect", self.path(f"{name}.onnx"))
        self.run("check", self.path(f"{name}.onnx"), "-r", self.path(f"{name}.keras"))

    def quantize(self, name: str, samples: np.ndarray, labels: np.ndarray | None) -> None:
        np.save(self.path("samples.npy"), samples)
        budget = ["--max-error", "2%"]
        if labels is not None:
            np.save(self.path("labels.npy"), labels)
            budget = ["--labels", self.path("labels.npy"), "--metric", "accuracy", "--max-drop", "0.5%"]
        self.run(
            "quantize", self.path(f"{name}.onnx"), "-o", self.path(f"{name}-int8.onnx"),
            "--samples", self.path("samples.npy"), *budget, "--overwrite",
        )  # fmt: skip

    def bench(self, name: str):
        self.run(
            "bench", self.path(f"{name}.onnx"), self.path(f"{name}-int8.onnx"), "--keras", self.path(f"{name}.keras"),
            "--threads", "1", "-o", self.path("bench.json"), "--overwrite",
        )  # fmt: skip
        return read_run(self.path("bench.json"))

    def accuracies(self, reviews: Reviews) -> list[tuple[str, float]]:
        """Accuracy of both files on all test reviews, through the runtime."""
        found = []
        for name in ("imdb.onnx", "imdb-int8.onnx"):
            model = Model(self.path(name), batch=64)
            inputs = reviews.test_ids if reviews.test_ids is not None else None
            right = 0
            for start in range(0, len(reviews.test_labels), 64):
                part = slice(start, start + 64)
                answers = model(reviews.test_texts[part], raw=True) if inputs is None else model(inputs[part])
                right += int(((answers[:, 0] > 0.5) == reviews.test_labels[part]).sum())
            found.append((name, right / len(reviews.test_labels)))
        return found

    def predictions(self, reviews: Reviews) -> list[tuple[str, str, str]]:
        """What the quantized file says of a few raw reviews that no training saw."""
        chosen = np.linspace(0, len(reviews.test_texts) - 1, REVIEWS_SHOWN).astype(int)
        texts = [reviews.test_texts[index] for index in chosen]
        answers = Model(self.path("imdb-int8.onnx"))(texts, raw=True)[:, 0]
        return [
            (text[:90] + "...", f"{answer:.2f} {'positive' if answer > 0.5 else 'negative'}", _word(label))
            for text, answer, label in zip(texts, answers, reviews.test_labels[chosen], strict=True)
        ]

    def finish(self, name: str, training: dict, run, accuracies, predictions) -> None:
        parity = {}
        for file in (f"{name}.onnx", f"{name}-int8.onnx"):
            checked = self.run("check", self.path(file), "-r", self.path(f"{name}.keras"), "--json", show=False)
            parity[file] = max(output["max_rel"] for output in checked["outputs"])
        rows = self.summary(run, parity, dict(accuracies))
        if predictions:
            shown = table("review", "answer", "its author")
            for row in predictions:
                shown.add_row(*row)
            section(self.console, "\nReviews that the training did not see, read as raw text by imdb-int8.onnx", shown)
        before = [
            Section(title="Summary", headers=HEADERS, rows=rows),
            Section(
                title="Training",
                text=_training_text(training),
                picture=training["curves_path"],
                caption="Learning curves; the weights of the best epoch on held-out training data were kept.",
            ),
        ]
        if predictions:
            before.append(
                Section(title="Unseen reviews", headers=("review", "answer", "its author"), rows=tuple(predictions))
            )
        write_report(
            [self.path("bench.json")], self.path("report.html"), title=f"edgeseq demo: {name}", before=before,
            overwrite=True,
        )  # fmt: skip
        for theme in ("light", "dark"):
            save_picture(run, self.path(f"latency-{theme}.png"), dark=theme == "dark", overwrite=True)
        self.console.print(f"\nReport: {self.path('report.html')}. Pictures: {training['curves_path']}, latency-*.png.")

    def summary(self, run, parity: dict[str, float], accuracies: dict[str, float]) -> tuple[tuple[str, ...], ...]:
        """The table of everything, printed and for the report."""
        predict, export = run.results[0], run.results[1]
        rows = []
        for result in run.results:
            ratios = [
                "-" if result.name == other.name or (ratio := speedup(result, other)) is None else times(ratio.value)
                for other in (predict, export)
            ]
            rows.append(
                (
                    result.name,
                    "-" if result.size_bytes is None else size(result.size_bytes),
                    f"{parity[result.name]:.1e}" if result.name in parity else "-",
                    f"{accuracies[result.name]:.2%}" if result.name in accuracies else "-",
                    "-" if result.p50_ns is None else duration(result.p50_ns),
                    "-" if result.p90_ns is None else duration(result.p90_ns),
                    *ratios,
                )
            )
        shown = table(*HEADERS, right=HEADERS[1:])
        for row in rows:
            shown.add_row(*row)
        section(self.console, "\nBatch 1, one thread, side by side in one run", shown)
        return tuple(rows)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def run(self, *arguments: str, show: bool = True) -> dict:
        """Run one edgeseq command as a user would; its JSON when it was asked for, else an empty dict."""
        as_json = "--json" in arguments
        shown = [argument for argument in arguments if argument not in ("--json", "--overwrite")]
        if show:
            self.console.print(f"\n$ edgeseq {shlex.join(shown)}", style="bold", soft_wrap=True)
        command = [sys.executable, "-m", "edgeseq", *arguments]
        finished = subprocess.run(command, stdout=subprocess.PIPE if as_json else None, text=True)
        if finished.returncode:
            raise SystemExit(finished.returncode)
        if not as_json:
            return {}
        document = json.loads(finished.stdout)
        if show and arguments[0] == "train":
            self.console.print(_training_text(document), soft_wrap=True)
        return document


HEADERS = ("", "size", "parity", "accuracy", "p50", "p90", "vs predict", "vs Keras export")


class Reviews:
    """Test reviews as texts with labels, and a few training reviews for the quantizer."""

    def __init__(self, texts, labels, ids, calibration, calibration_labels):
        self.test_texts, self.test_labels, self.test_ids = texts, np.asarray(labels), ids
        self.calibration, self.calibration_labels = calibration, np.asarray(calibration_labels)


def _find_reviews(folder: Path | None) -> Reviews:
    """The reviews from a data folder, else from Keras's public loader; raises DataUnavailable when neither has them."""
    from edgeseq.recipes.imdb import load_reviews

    loaded = load_reviews(folder)
    found = data.locate("imdb", folder)
    calibration = loaded.train.inputs[:: len(loaded.train) // CALIBRATION_ROWS][:CALIBRATION_ROWS]
    calibration_labels = loaded.train.targets[:: len(loaded.train) // CALIBRATION_ROWS][:CALIBRATION_ROWS]
    if found is None:
        # Keras's copy has ids only: words of the vocabulary, and a dot for each that is not in it.
        words = dict(enumerate(loaded.vocabulary, start=4))
        texts = [" ".join(words.get(int(token), "...") for token in row if token > 1) for row in loaded.test.inputs]
        return Reviews(texts, loaded.test.targets, loaded.test.inputs, calibration, calibration_labels)
    texts, labels = readers.read_reviews(found / "test.jsonl.gz")
    return Reviews(list(texts), labels, None, calibration, calibration_labels)


def _training_text(training: dict) -> str:
    parts = [
        f"{training['recipe']}: {training['parameters']:,} parameters, {training['samples']:,} training samples, "
        f"{training['epochs']} epochs (best: {training['best_epoch']}), {training['seconds']:.0f} s."
    ]
    parts.append(
        "On test data: " + ", ".join(f"{name} {value:.4g}" for name, value in training["metrics"].items()) + "."
    )
    return " ".join([*parts, *training["notes"]])


def _word(label: int) -> str:
    return "positive" if label else "negative"


if __name__ == "__main__":
    sys.exit(main())

"""Making the set: Keras models of every kind, exported by edgeseq and by Keras, with golden answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq import files
from edgeseq.errors import MissingExtra, OutputExists, WrongUsage
from edgeseq.runtime.golden import read_golden, write_golden
from edgeseq.runtime.manifest import METADATA_KEY, Manifest, load_manifest
from gpu_check.artifacts import SET_FILE, Artifact, ArtifactSet
from gpu_check.judge import RELU_ON_CUDA

try:
    import keras
    import onnx
    from keras import layers as L
    from onnxruntime.transformers.float16 import convert_float_to_float16
except ModuleNotFoundError as error:
    raise MissingExtra(str(error.name), "cpu,export", "making the set of models") from error

import edgeseq
from edgeseq.bench.subjects import error_text
from edgeseq.conversion.bridge import working_tf2onnx
from edgeseq.inspection import inspect

HALF_TOLERANCE = 1e-2
"""For half precision: a number has 11 bits (one rounding is 2^-11 = 4.9e-4), and the state is rounded at every step;
sigmoid and tanh keep that from growing, so some twenty roundings are allowed for."""

_SEED = 5

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one model of the set is made."""

    name: str
    description: str
    build: Callable[[], Any]
    samples: Callable[[np.random.Generator], Array]
    target: str = "cuda"
    streaming: bool = False
    refused_on: tuple[str, ...] = ()
    half_of: str = ""
    """Name of the model whose file it is in half precision, instead of one of its own."""


def _model(shape: Sequence[int | None], *layers: Any, dtype: str | None = None, batch: int | None = None) -> Any:
    return keras.Sequential([keras.Input(shape, dtype=dtype, batch_size=batch), *layers])


def _floats(*shape: int) -> Callable[[np.random.Generator], Array]:
    return lambda random: random.standard_normal(shape).astype(np.float32)


def _ids(*shape: int, vocabulary: int) -> Callable[[np.random.Generator], Array]:
    return lambda random: random.integers(1, vocabulary, shape).astype(np.int32)


def _padded(rows: int, steps: int, features: int) -> Callable[[np.random.Generator], Array]:
    """Rows of other lengths: whole, padded at the end, padded at the front, and with gaps."""

    def make(random: np.random.Generator) -> Array:
        x = random.standard_normal((rows, steps, features)).astype(np.float32)
        x[1, steps // 2 :] = 0
        x[2, : steps // 3] = 0
        x[3, ::3] = 0
        return x

    return make


def _wide(layer: Any, units: int) -> Callable[[], Any]:
    return lambda: _model((None, 128), layer(units), L.Dense(8))


RECIPES = (
    Recipe(
        name="text",
        description="film reviews: Embedding 5000 x 64, LSTM 64, as the imdb recipe",
        build=lambda: _model(
            (None,), L.Embedding(5000, 64), L.LSTM(64), L.Dense(1, activation="sigmoid"), dtype="int32"
        ),
        samples=_ids(4, 250, vocabulary=5000),
    ),
    Recipe(
        name="engines",
        description="remaining life of engines: LSTM 100, LSTM 50 on 30 steps of 14 sensors, as for C-MAPSS",
        build=lambda: _model((30, 14), L.LSTM(100, return_sequences=True), L.Dropout(0.2), L.LSTM(50), L.Dense(1)),
        samples=_floats(4, 30, 14),
    ),
    Recipe(
        name="forecast",
        description="forecast of 24 hours: GRU 64 on 72 hours of 7 series, as the forecast recipe",
        build=lambda: _model((72, 7), L.GRU(64), L.Dense(24)),
        samples=_floats(4, 72, 7),
    ),
    *(
        Recipe(
            name=f"{kind.__name__.lower()}-{units}",
            description=f"wide {kind.__name__} {units} on 100 steps of 128 features",
            build=_wide(kind, units),
            samples=_floats(2, 100, 128),
        )
        for kind in (L.LSTM, L.GRU)
        for units in (512, 1024)
    ),
    Recipe(
        name="bidirectional",
        description="two Bidirectional GRU 128 on 100 steps of 40 features",
        build=lambda: _model(
            (100, 40),
            L.Bidirectional(L.GRU(128, return_sequences=True)),
            L.Bidirectional(L.GRU(128)),
            L.Dense(10),
        ),
        samples=_floats(4, 100, 40),
    ),
    Recipe(
        name="convlstm",
        description="frames: ConvLSTM2D 16 3x3 on 10 frames of 32 x 32",
        build=lambda: _model(
            (10, 32, 32, 1), L.ConvLSTM2D(16, 3, padding="same"), L.GlobalAveragePooling2D(), L.Dense(1)
        ),
        samples=_floats(2, 10, 32, 32, 1),
    ),
    Recipe(
        name="masked",
        description="Masking, LSTM 64, GRU 32: rows padded at the end, at the front, and with gaps",
        build=lambda: _model((None, 16), L.Masking(), L.LSTM(64, return_sequences=True), L.GRU(32), L.Dense(1)),
        samples=_padded(4, 60, 16),
    ),
    Recipe(
        name="stateful",
        description="LSTM 64 with stateful=True: its state is an input and an output",
        build=lambda: _model((20, 8), L.LSTM(64, stateful=True), L.Dense(1), batch=1),
        samples=_floats(1, 20, 8),
    ),
    Recipe(
        name="stream-lstm",
        description="LSTM 128 step by step: exported with streaming",
        build=lambda: _model((None, 16), L.LSTM(128, return_sequences=True), L.Dense(4)),
        samples=_floats(2, 50, 16),
        streaming=True,
    ),
    Recipe(
        name="stream-gru",
        description="two GRU 64 step by step: exported with streaming",
        build=lambda: _model(
            (None, 16), L.GRU(64, return_sequences=True), L.GRU(64, return_sequences=True), L.Dense(4)
        ),
        samples=_floats(2, 50, 16),
        streaming=True,
    ),
    Recipe(
        name=RELU_ON_CUDA,
        description="LSTM 64 with activation relu, lowered for CUDA, whose own op takes tanh alone",
        build=lambda: _model((40, 14), L.LSTM(64, activation="relu"), L.Dense(1)),
        samples=_floats(4, 40, 14),
    ),
    Recipe(
        name="relu-lstm-cpu",
        description="the same lowered for the CPU: strict CUDA refuses it",
        build=lambda: _model((40, 14), L.LSTM(64, activation="relu"), L.Dense(1)),
        samples=_floats(4, 40, 14),
        target="cpu",
        refused_on=("cuda",),
    ),
    Recipe(
        name="gru-reset-before",
        description="GRU 64 with reset_after=False, lowered for CUDA, whose own op has no such form",
        build=lambda: _model((40, 14), L.GRU(64, reset_after=False), L.Dense(1)),
        samples=_floats(4, 40, 14),
    ),
    Recipe(
        name="text-fp16",
        description="the film reviews in half precision",
        build=lambda: None,
        samples=_floats(1),
        half_of="text",
    ),
    Recipe(
        name="lstm-512-fp16",
        description="the wide LSTM 512 in half precision",
        build=lambda: None,
        samples=_floats(1),
        half_of="lstm-512",
    ),
)


def prepare(
    folder: Path,
    *,
    only: Sequence[str] = (),
    overwrite: bool = False,
    recipes: Sequence[Recipe] = RECIPES,
    progress: Callable[[str, int, int], None] | None = None,
) -> ArtifactSet:
    """Make the set in `folder`, which appears whole or not at all. Raises OutputExists, and what an export raises."""
    names = [recipe.name for recipe in recipes]
    for name in only:
        if name not in names:
            raise WrongUsage(f"there is no model '{name}'; there are {', '.join(names)}")
    if folder.exists() and (not overwrite or not (folder / SET_FILE).is_file()):
        raise OutputExists(folder)
    chosen = [recipe for recipe in recipes if not only or recipe.name in only]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.whole_folder(folder) as temporary:
        artifacts: list[Artifact] = []
        models = {}
        for number, recipe in enumerate(chosen):
            if progress:
                progress(recipe.name, number, len(chosen))
            if recipe.half_of:
                _in_half(temporary / f"{recipe.half_of}.onnx", temporary / f"{recipe.name}.onnx")
            else:
                models[recipe.name] = _export(recipe, temporary)
        # After every file of edgeseq's: Keras's exporter changes tf2onnx for good.
        for number, recipe in enumerate(chosen):
            if progress:
                progress(f"Keras's own export of {recipe.name}", number, len(chosen))
            artifacts.append(_described(recipe, temporary, models.get(recipe.name), artifacts))
        made = ArtifactSet(artifacts=tuple(artifacts))
        files.write_json(temporary / SET_FILE, dataclasses.asdict(made))
    return made


def _export(recipe: Recipe, folder: Path) -> Any:
    keras.utils.set_random_seed(_SEED)
    model, random = recipe.build(), np.random.default_rng(_SEED)
    for weight in model.weights:
        # Keras begins with zeros: a bias in a wrong place would change nothing.
        if weight.path.endswith("bias"):
            weight.assign(random.normal(0.0, 0.1, weight.shape))
    edgeseq.export(
        model,
        folder / f"{recipe.name}.onnx",
        target=recipe.target,
        streaming=recipe.streaming,
        samples=recipe.samples(random),
    )
    return model


def _in_half(source: Path, target: Path) -> None:
    """The file in half precision, float32 outside, with Keras's golden answers and `HALF_TOLERANCE`."""
    manifest = load_manifest(source)
    assert manifest is not None, "edgeseq wrote it"
    half: Manifest = dataclasses.replace(manifest, tolerance=HALF_TOLERANCE)
    model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = half.to_json()
    files.write_bytes(target, model.SerializeToString(deterministic=True))
    write_golden(target, read_golden(source, manifest.model_hash), manifest.model_hash)


def _described(recipe: Recipe, folder: Path, model: Any, before: Sequence[Artifact]) -> Artifact:
    file = f"{recipe.name}.onnx"
    manifest = load_manifest(folder / file)
    assert manifest is not None, "edgeseq wrote it"
    rival, loops, note = f"{recipe.name}.keras-export.onnx", 0, ""
    if recipe.half_of:
        # Keras exports no half precision: it is held against the same model in fp32.
        [full] = [artifact for artifact in before if artifact.name == recipe.half_of]
        rival, loops, note = full.rival, full.rival_loops, full.rival_note
    elif manifest.states:
        rival, note = "", "Keras's export drops the state"
    else:
        try:
            with working_tf2onnx():
                model.export(folder / rival, format="onnx", verbose=False)
            loops = inspect(folder / rival).loops
        except Exception as error:  # noqa: BLE001 - a model that Keras cannot export has no rival, and that is said
            rival, note = "", error_text(error)
    first = manifest.inputs[0]
    rows = first.axes[0]
    return Artifact(
        name=recipe.name,
        description=recipe.description,
        file=file,
        target=recipe.target,
        precision="fp16" if recipe.half_of else "fp32",
        strategies=tuple(layer.strategy for layer in manifest.recurrent),
        rival=rival,
        rival_loops=loops,
        rival_note=note,
        refused_on=recipe.refused_on,
        batches=(rows,) if isinstance(rows, int) else (),
    )

"""From a recipe's name to a trained model on disk."""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path
from typing import Any

from edgeseq import files
from edgeseq.errors import MissingExtra, WrongUsage
from edgeseq.files import StrPath
from edgeseq.recipes import checkpoint
from edgeseq.recipes.plan import Plan, Progress
from edgeseq.recipes.registry import Request, find
from edgeseq.recipes.report import TrainingReport


def train(
    recipe: str,
    output: StrPath,
    *,
    data: StrPath | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> TrainingReport:
    """Train a recipe and write the model with what belongs to it.

    Beside `output` (``model.keras``) appear ``model.history.json``, ``model.curves.png`` and, where raw data has to be
    turned into the model's inputs, ``model.preprocessing.json``. While the training is unfinished the folder
    ``model.checkpoint`` holds its state after every epoch.

    Args:
        recipe: A name in `edgeseq.recipes.RECIPES`.
        output: The model to write; its name ends in ``.keras``.
        data: Folder of data sets; None looks in the usual places (see `edgeseq.recipes.data`).
        epochs: Passes over the training data at most, 1 or more; None is the recipe's own number.
        batch_size: Samples a step, 1 or more; None is the recipe's own number.
        seed: From 0 to 2**32 - 1; the same seed, data and machine give the same training.
        overwrite: Whether an existing output may be replaced.
        resume: True goes on from the checkpoint and fails without one; False discards it; None goes on when there is
            one of the same settings.
        progress: Called with (stage, done, total) during training.
        options: The recipe's own options.

    Raises:
        WrongUsage: No such recipe or option, the checkpoint is of another training, or its place is taken by files that
            no training wrote.
        OutputExists: One of the outputs is there; raised before anything is read or trained.
        DataUnavailable: The data set is nowhere to be found; the message says where to get it.
        MissingInput: `data` was named and lacks the data set.
        InvalidFile: A file of the data set, or the checkpoint, is damaged.
        MissingExtra: TensorFlow or matplotlib is not installed.
        NegativeResult: The training diverged.
        KeyboardInterrupt: Interrupted; no model is written, the checkpoint stays, and a note says how to go on.
    """
    started = time.perf_counter()
    chosen = find(recipe)
    values = chosen.resolve(options)
    if epochs is not None:
        _check_whole_number("epochs", epochs, least=1)
    if batch_size is not None:
        _check_whole_number("batch_size", batch_size, least=1)
    _check_whole_number("seed", seed, least=0, most=2**32 - 1)
    target = Path(output)
    if target.suffix != ".keras":
        raise WrongUsage(f"the model's name must end in .keras, got {target.name}")
    settings = {
        "recipe": recipe,
        "options": values,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "data": None if data is None else str(Path(data).resolve()),
    }
    files.check_output(target, overwrite=overwrite)
    resuming = _agrees_to_resume(target, settings, resume)
    for beside in _sidecars(target).values():
        # A training killed while it wrote its results has left some of them; its checkpoint says that they are ours.
        files.check_output(beside, overwrite=overwrite or resuming)
    _require_packages()
    if not resuming:
        checkpoint.discard(target)

    import keras

    keras.utils.set_random_seed(seed)
    request = Request(data=None if data is None else Path(data), epochs=epochs, batch_size=batch_size, seed=seed)
    if progress is not None:
        progress("reading the data", 0, 1)
    plan = chosen.prepare(request, **values)
    try:
        return _train_and_write(plan, target, settings, resuming, overwrite, progress, started)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(_how_to_go_on(target, plan))
        raise


def _train_and_write(
    plan: Plan,
    target: Path,
    settings: dict[str, Any],
    resuming: bool,
    overwrite: bool,
    progress: Progress | None,
    started: float,
) -> TrainingReport:
    from edgeseq.conversion.reference import reset_states
    from edgeseq.recipes import curves, training

    state = checkpoint.restore(target, plan.model) if resuming else checkpoint.TrainingState()
    resumed = state.epoch
    training.fit(plan, state, output=target, settings=settings, progress=progress)
    if progress is not None:
        progress("testing", 0, 1)
    evaluation = plan.evaluate(plan.model)
    kept_epoch = state.best_epoch if plan.best_weights else state.epoch
    beside = _sidecars(target)
    if plan.preprocessing is None:
        beside["preprocessing"].unlink(missing_ok=True)
    else:
        files.write_json(beside["preprocessing"], plan.preprocessing)
    files.write_json(beside["history"], {**settings, "best_epoch": kept_epoch, "history": state.history})
    curves.draw(beside["curves"], target.stem, state.history, kept_epoch)
    # The model comes last: where it is, all is.
    reset_states(plan.model)
    with files.whole_file(target, overwrite=overwrite) as temporary:
        plan.model.save(temporary)
    checkpoint.discard(target)
    notes = [*plan.notes, *evaluation.notes]
    if resumed:
        notes.append(f"resumed after epoch {resumed} from the checkpoint of an interrupted training")
    if state.stopped:
        notes.append(f"stopped early: {plan.monitor} was not better for {plan.patience} epochs")
    return TrainingReport(
        recipe=settings["recipe"],
        options=settings["options"],
        source=plan.source,
        model_path=str(target),
        preprocessing_path=None if plan.preprocessing is None else str(beside["preprocessing"]),
        history_path=str(beside["history"]),
        curves_path=str(beside["curves"]),
        samples=len(plan.train),
        epochs=state.epoch,
        best_epoch=kept_epoch,
        resumed_epochs=resumed,
        batch_size=plan.batch_size,
        seed=settings["seed"],
        parameters=int(plan.model.count_params()),
        metrics={name: float(value) for name, value in evaluation.metrics.items()},
        baseline={name: float(value) for name, value in evaluation.baseline.items()},
        seconds=time.perf_counter() - started,
        notes=tuple(notes),
    )


def _sidecars(target: Path) -> dict[str, Path]:
    return {
        name: target.with_name(f"{target.stem}.{name}.{suffix}")
        for name, suffix in (("preprocessing", "json"), ("history", "json"), ("curves", "png"))
    }


def _agrees_to_resume(target: Path, settings: dict[str, Any], resume: bool | None) -> bool:
    """Whether to go on from the checkpoint beside `target`; raises WrongUsage where that is not what was asked."""
    checkpoint.check_folder(target, discarding=resume is False)
    if resume is False:
        return False
    found = checkpoint.saved_settings(target)
    folder = checkpoint.folder_of(target)
    if found is None:
        if resume:
            raise WrongUsage(f"there is no training to resume: {folder} holds no checkpoint")
        return False
    if found != settings:
        raise WrongUsage(
            f"{folder} holds an unfinished training of other settings: {_differences(found, settings)}. Repeat those "
            "settings to go on with it, or start afresh (--fresh at the command line, resume=False in Python)."
        )
    return True


def _differences(saved: dict[str, Any], asked: dict[str, Any]) -> str:
    """The settings that differ, in words; of another recipe, whose options are others, only its name."""
    if saved.get("recipe") != asked["recipe"]:
        return f"recipe: {saved.get('recipe')} (now {asked['recipe']})"
    unsaid = {"epochs": "the recipe's own", "batch_size": "the recipe's own", "data": "in the usual places"}
    old, new = ({**settings, **settings["options"], "options": None} for settings in (saved, asked))

    def said(name: str, value: Any) -> str:
        return unsaid.get(name, "not set") if value is None else str(value)

    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    return ", ".join(f"{name}: {said(name, old.get(name))} (now {said(name, new.get(name))})" for name in names)


def _check_whole_number(name: str, value: object, *, least: int, most: int | None = None) -> None:
    # A bool is an int to Python but not to people.
    if type(value) is not int or value < least or (most is not None and value > most):
        allowed = f"{least} or more" if most is None else f"from {least} to {most}"
        raise WrongUsage(f"{name} must be a whole number, {allowed}; got {value!r}")


def _how_to_go_on(target: Path, plan: Plan) -> str:
    epoch = checkpoint.saved_epoch(target)
    if not epoch:
        return "training stopped before its first epoch was finished; nothing was written"
    return (
        f"training stopped after epoch {epoch} of {plan.epochs}; no model was written. Run the same command again to "
        f"go on from {checkpoint.folder_of(target)}"
    )


def _require_packages() -> None:
    # TensorFlow's own log lines are for its developers.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for package, extra in (("tensorflow", "export"), ("keras", "export"), ("matplotlib", "report")):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise MissingExtra(package, extra, "training a recipe") from error

"""`edgeseq train`: a sub-command for each recipe, made from the table of recipes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from edgeseq.cli.options import Command, Output, Overwrite, command
from edgeseq.cli.reply import Reply
from edgeseq.errors import WrongUsage
from edgeseq.files import check_output

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseq.recipes import Option, Recipe, TrainingReport

_COMMON: dict[str, tuple[Any, Any]] = {
    "output": (Output, inspect.Parameter.empty),
    "data": (
        Annotated[Path | None, typer.Option("--data", help="Folder of data sets. Default: the usual places.")],
        None,
    ),
    "epochs": (
        Annotated[int | None, typer.Option("--epochs", help="Passes over the data at most. Default: the recipe's.")],
        None,
    ),
    "batch_size": (
        Annotated[int | None, typer.Option("--batch-size", help="Samples a step. Default: the recipe's.")],
        None,
    ),
    "seed": (Annotated[int, typer.Option("--seed", help="Seed of weights, order and made data.")], 0),
    "resume": (
        Annotated[
            bool | None,
            typer.Option(
                "--resume/--fresh",
                help="Go on from the checkpoint of an interrupted training, or discard it. Default: go on where "
                "there is one of the same settings.",
            ),
        ],
        None,
    ),
    "overwrite": (Overwrite, False),
}


class _Recipes(TyperGroup):
    """The recipes' commands, made when they are asked for: reading the table imports numpy."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        from edgeseq.recipes import RECIPES

        return list(RECIPES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        from edgeseq.recipes import RECIPES

        if cmd_name not in RECIPES:
            return None
        recipe = RECIPES[cmd_name]
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(cmd_name, help=recipe.summary)(command(_trainer(recipe)))
        return typer.main.get_command(app)


def register(app: typer.Typer) -> None:
    """Add the group to the application."""
    group = typer.Typer(cls=_Recipes, rich_markup_mode=None)
    group.callback(invoke_without_command=True)(command(_train))
    app.add_typer(group, name="train")


def _train(
    context: typer.Context,
    show_list: Annotated[bool, typer.Option("--list", help="Show the recipes with a line each.")] = False,
) -> Reply | None:
    """Train a model by a recipe, on real data."""
    if show_list:
        return _list()
    if context.invoked_subcommand is None:
        raise WrongUsage("which recipe? `edgeseq train --list` shows them")
    return None


def _trainer(recipe: Recipe) -> Command:
    """A function that trains `recipe`, with the common options and the recipe's own as its signature."""

    def train(output: Path, **arguments: Any) -> Reply:
        from edgeseq.cli.console import progress_bar
        from edgeseq.cli.quiet import import_tensorflow
        from edgeseq.recipes import train as fit

        # Before TensorFlow is imported, which takes seconds.
        check_output(output, overwrite=arguments["overwrite"])
        import_tensorflow()
        with progress_bar() as progress:
            report = fit(recipe.name, output, progress=progress, **arguments)
        return Reply(document=report, show=lambda out: _show(report, out))

    own = {option.name: (_annotation(option), option.default) for option in recipe.options}
    train.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in (_COMMON | own).items()
        ]
    )
    return train


def _annotation(option: Option) -> Any:
    kind = Literal[option.choices] if option.choices else option.type
    name = option.name.replace("_", "-")
    flag = f"--{name}/--no-{name}" if option.type is bool else f"--{name}"
    return Annotated[kind, typer.Option(flag, help=option.help)]


def _list() -> Reply:
    from edgeseq.cli.documents import OptionEntry, RecipeEntry, RecipeList
    from edgeseq.recipes import RECIPES

    found = RecipeList(
        recipes=tuple(
            RecipeEntry(
                name=recipe.name,
                summary=recipe.summary,
                options=tuple(
                    OptionEntry(
                        name=option.name,
                        type=option.type.__name__,
                        default=option.default,
                        choices=option.choices,
                        help=option.help,
                    )
                    for option in recipe.options
                ),
            )
            for recipe in RECIPES.values()
        )
    )

    def show(out: Console) -> None:
        from edgeseq.cli.console import table

        recipes = table("recipe", "")
        for recipe in found.recipes:
            recipes.add_row(recipe.name, recipe.summary)
        out.print(recipes)
        out.print("options of one: edgeseq train RECIPE --help")

    return Reply(document=found, show=show)


def _show(report: TrainingReport, out: Console) -> None:
    from edgeseq.bench.units import significant
    from edgeseq.cli.console import notes, section, table

    out.print(
        f"{report.model_path}: {report.recipe}, {report.parameters:,} parameters, {report.samples:,} training samples, "
        f"best of {report.epochs} epochs: {report.best_epoch}, {report.seconds:.0f} s",
        soft_wrap=True,
    )
    heads = ("model", "baseline") if report.baseline else ("model",)
    metrics = table("", *heads, right=heads)
    for name, value in report.metrics.items():
        baseline = [significant(report.baseline[name], 4)] if name in report.baseline else []
        metrics.add_row(name, significant(value, 4), *baseline)
    section(out, "On test data", metrics)
    notes(out, report.notes)
    out.print(f"data: {report.source}", soft_wrap=True)
    for what, path in (
        ("history", report.history_path),
        ("learning curves", report.curves_path),
        ("preprocessing", report.preprocessing_path),
    ):
        if path is not None:
            out.print(f"{what}: {path}", soft_wrap=True)
    target = Path(report.model_path).with_suffix(".onnx")
    out.print(f"next: edgeseq export {report.model_path} -o {target}", soft_wrap=True)

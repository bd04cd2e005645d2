"""What a recipe is, and the one table of them.

A recipe is a function ``(request, *, option=default, ...) -> Plan`` whose options are keyword-only, annotated with
``Annotated[type, "help text"]`` where the type is bool, int, float, str or a Literal of strings. The table is what a
command line is built from: importing it imports no TensorFlow.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseq.errors import WrongUsage

if TYPE_CHECKING:
    from edgeseq.recipes.plan import Plan

OptionValue = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class Request:
    """What every recipe is asked, whatever its options."""

    data: Path | None
    """Folder of data sets that was named, or None to look in the usual places."""
    epochs: int | None
    """Passes over the training data at most; None is the recipe's own number."""
    batch_size: int | None
    """Samples a training step; None is the recipe's own number."""
    seed: int
    """Seed of the weights, the order of the samples, and of data that is made."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a recipe."""

    name: str
    """Keyword of `edgeseq.recipes.train`; with dashes for underscores it is the command line's."""
    type: type
    """bool, int, float or str."""
    default: OptionValue
    """The value when it is not given."""
    choices: tuple[str, ...]
    """The strings allowed; empty when any value of the type is."""
    help: str
    """One line for people."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training recipe: what it is called, what it does, and what can be chosen."""

    name: str
    """Name at the command line."""
    summary: str
    """One line: the data, the network, the aim."""
    options: tuple[Option, ...]
    """The recipe's own options; `epochs`, `batch_size`, `seed` and the like belong to every recipe."""
    prepare: Callable[..., Plan]
    """``(request, **options) -> Plan``: reads the data and builds the model, without training it."""

    def resolve(self, options: Mapping[str, Any]) -> dict[str, OptionValue]:
        """Every option with its value, the defaults filled in.

        Raises WrongUsage for an option this recipe does not have, or a value of another type or outside the choices.
        """
        known = {option.name: option for option in self.options}
        for name in options:
            if name not in known:
                raise WrongUsage(f"recipe '{self.name}' has no option {name!r}. {nearest(name, known)}")
        return {name: _checked(self.name, option, options.get(name, option.default)) for name, option in known.items()}


RECIPES: dict[str, Recipe] = {}
"""Name -> recipe, in the order in which they are shown."""


def recipe(name: str, summary: str) -> Callable[[Callable[..., Plan]], Callable[..., Plan]]:
    """Enter the decorated function in `RECIPES`, its options read from its signature."""

    def register(prepare: Callable[..., Plan]) -> Callable[..., Plan]:
        RECIPES[name] = Recipe(name=name, summary=summary, options=_options(prepare), prepare=prepare)
        return prepare

    return register


def find(name: str) -> Recipe:
    """The recipe called `name`; raises WrongUsage, with the names there are, when there is none."""
    if name not in RECIPES:
        raise WrongUsage(f"no recipe is called {name!r}. {nearest(name, RECIPES)}")
    return RECIPES[name]


def nearest(name: str, known: Iterable[str]) -> str:
    """Advice for a name that is not known: the most likely one, and all there are."""
    names = list(known)
    guess = difflib.get_close_matches(name, names, n=1)
    return (f"Did you mean {guess[0]!r}? " if guess else "") + f"There are: {', '.join(names) or 'none'}."


def _options(prepare: Callable[..., Plan]) -> tuple[Option, ...]:
    hints = typing.get_type_hints(prepare, include_extras=True)
    options = []
    for parameter in inspect.signature(prepare).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        kind, help_text = typing.get_args(hints[parameter.name])
        choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
        options.append(
            Option(
                name=parameter.name,
                type=str if choices else kind,
                default=parameter.default,
                choices=choices,
                help=help_text,
            )
        )
    return tuple(options)


def _checked(recipe_name: str, option: Option, value: Any) -> OptionValue:
    # A whole number is a good float; a bool is an int to Python but not to people.
    fits = type(value) is option.type or (option.type is float and type(value) is int)
    if not fits or (option.choices and value not in option.choices):
        allowed = " or ".join(map(repr, option.choices)) if option.choices else option.type.__name__
        raise WrongUsage(f"option {option.name!r} of recipe '{recipe_name}' takes {allowed}, got {value!r}")
    return option.type(value)  # type: ignore[no-any-return]

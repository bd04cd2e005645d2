"""Training recipes on real data: `train` one by its name, or read `RECIPES` for what there is.

Importing this room imports no TensorFlow; `train` does.
"""

# The modules enter themselves in RECIPES; the order is that of the list people see.
from edgeseq.recipes import middle, imdb, forecast, stateful, vowels, frames  # noqa: F401, I001
from edgeseq.recipes.registry import RECIPES, Option, Recipe
from edgeseq.recipes.report import TrainingReport
from edgeseq.recipes.workflow import train

__all__ = ["RECIPES", "Option", "Recipe", "TrainingReport", "train"]

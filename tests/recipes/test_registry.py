from __future__ import annotations

import subprocess
import sys

import pytest

from edgeseq.errors import WrongUsage
from edgeseq.recipes import RECIPES, train


def test_the_six_recipes_are_listed_with_a_line_and_a_help_text_for_every_option():
    assert list(RECIPES) == ["middle", "imdb", "forecast", "stateful", "vowels", "frames"]
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.summary
        assert "\n" not in recipe.summary
        for option in recipe.options:
            assert option.help, f"{name}.{option.name}"
            assert option.type in (bool, int, float, str)
            assert type(option.default) is option.type
            assert not option.choices or option.default in option.choices


def test_options_are_read_from_the_signature():
    options = {option.name: option for option in RECIPES["imdb"].options}
    assert options["cell"].choices == ("lstm", "gru", "simple_rnn")
    assert options["bidirectional"].type is bool
    assert options["samples"].default == 0


def test_listing_recipes_imports_no_tensorflow():
    code = "import sys, edgeseq.recipes; print(sorted({'tensorflow', 'keras', 'matplotlib', 'PIL'} & set(sys.modules)))"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listed.stdout.strip() == "[]"


def test_an_unknown_recipe_names_the_nearest(tmp_path):
    with pytest.raises(WrongUsage, match=r"'midle'. Did you mean 'middle'\?"):
        train("midle", tmp_path / "m.keras")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"varient": "a"}, r"no option 'varient'. Did you mean 'variant'\?"),
        ({"variant": "d"}, r"option 'variant' .* takes 'a' or 'b' or 'c', got 'd'"),
        ({"as_published": 1}, "option 'as_published' .* takes bool, got 1"),
        ({"epochs": 0}, "epochs must be a whole number, 1 or more; got 0"),
    ],
)
def test_wrong_options_are_refused_with_the_reason(tmp_path, options, reason):
    with pytest.raises(WrongUsage, match=reason):
        train("middle", tmp_path / "m.keras", **options)
    assert not list(tmp_path.iterdir())


def test_a_whole_number_is_taken_for_a_float_option():
    assert RECIPES["forecast"].resolve({"dropout": 0})["dropout"] == 0.0

"""Recipes: systems by their published names, at two scales, for a data set; and the runs that come of them."""

from canonkit.recipes.names import SCALES, SYSTEMS, recipe, systems
from canonkit.recipes.recipe import Recipe
from canonkit.recipes.run import Run, load_run, new_run_folder

__all__ = ["SCALES", "SYSTEMS", "Recipe", "Run", "load_run", "new_run_folder", "recipe", "systems"]

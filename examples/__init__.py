"""Recipes: one folder each, with a README, a driver script and its configs."""

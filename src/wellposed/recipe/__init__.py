"""Recipes: what may change between two runs on one problem. Frozen, validated, readable as TOML."""

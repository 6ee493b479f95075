"""Recipes that come with Maskline."""

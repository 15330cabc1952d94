"""Exercises of the part `basics`."""

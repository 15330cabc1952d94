"""Exercises of the part `learning`."""

"""Exercises of the part `prompting`."""

"""Exercises of the part `mechanisms`."""

"""Exercises of the part `attention`."""

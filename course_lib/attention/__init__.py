"""Attention: as a projection onto a convex hull, and as kernel smoothing."""

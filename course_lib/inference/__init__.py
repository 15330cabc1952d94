"""Bayesian inference: posteriors over concepts and over densities."""

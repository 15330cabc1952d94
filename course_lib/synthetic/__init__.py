"""What small models are trained on: Markov chains, densities, functions, repeated sequences."""

"""Small models that are trained in the book."""

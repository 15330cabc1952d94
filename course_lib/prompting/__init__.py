"""Writing the prompt: which demonstrations to choose, and in which order to show them."""

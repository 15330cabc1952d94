"""What it is: the chapter of this part teaches the ground package `fewshot`."""

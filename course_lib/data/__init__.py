"""Data: tasks of words and labelled texts."""

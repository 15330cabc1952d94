"""Data: the tasks of chapter 08 and labelled texts."""

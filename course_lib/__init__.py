"""Code of the course *Why In-Context Learning Works*: a folder for each part of the book."""

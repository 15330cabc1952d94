"""Code of the course *Why In-Context Learning Works*: a concept module per chapter, on shared foundations."""

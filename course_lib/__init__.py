"""Code of the course *Why In-Context Learning Works*: one concept module per chapter, on shared foundations."""

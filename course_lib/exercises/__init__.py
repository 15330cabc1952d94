"""The exercises of the book: one module per chapter, named as its concept module."""

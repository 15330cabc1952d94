"""The exercises of the book: a module for each chapter, in the folder of its part."""

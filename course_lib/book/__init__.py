"""How the book is made: notebooks executed and checked, pages printed, chapters begun."""

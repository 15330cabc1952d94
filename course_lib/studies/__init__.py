"""Studies: tables too long for a page, measured by one command and stored."""

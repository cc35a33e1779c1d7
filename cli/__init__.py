"""Command-line door: one file per command; each imports what it drives only when it is called."""

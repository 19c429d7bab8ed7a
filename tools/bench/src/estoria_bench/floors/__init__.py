"""The same work hand-written, in the best way known: how fast it could be."""

"""Federations between institutions, on the Flower engine: an extra, which nothing else of the package imports."""

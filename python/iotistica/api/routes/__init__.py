"""Handlers, one file for each part of the API; each gives its routes to the table."""

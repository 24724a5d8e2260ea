"""Backends written for the reference interface or for joblib (being written)."""

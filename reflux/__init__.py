"""Reflux distils a large teacher model into a small student that does one job well."""

__version__ = "0.1.0"

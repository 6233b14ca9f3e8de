"""The embedded stack: real servers from installed packages, the same processes as in production, one command."""

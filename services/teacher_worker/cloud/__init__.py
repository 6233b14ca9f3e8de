"""Machines that exist only for a run: the one place that asks a provider for any, and ends them."""

"""Measures what inferd costs, by itself and beside its peers. Nothing here is installed."""

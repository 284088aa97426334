"""Decisions on events of Git: what may be merged, what is released, what is retrained."""

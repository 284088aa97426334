"""The routes and the wire formats."""

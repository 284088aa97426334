"""A stand-in for GitHub: a server with state, checked at every step against GitHub's own description of its API."""

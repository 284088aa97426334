"""Streams a challenge's live observations into the service."""

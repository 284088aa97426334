"""Online: the Litestar application around one bundle. Imports `forecasting`, and settings and errors of `clients`."""

VERSION = "1"
"""Of the service's own interface."""

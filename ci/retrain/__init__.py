"""The answer to drift: a run on fresh data, the same gate, one issue, and an offer for release."""

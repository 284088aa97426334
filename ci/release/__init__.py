"""The release: from a gated model version and a commit of master to a verified image that production runs."""

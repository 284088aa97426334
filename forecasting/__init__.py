"""The domain, pure: what a challenge is, its features, its models' bundle, and how models are compared."""

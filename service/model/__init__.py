"""The bundle that is served."""

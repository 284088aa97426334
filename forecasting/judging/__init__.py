"""How models are compared: losses, panel, contests, verdict."""

"""What carries the files of a run between its workspace and the services; the stages themselves reach none of these."""

"""What is counted and what the counts say."""

"""The state of every series: in memory or in Redis."""

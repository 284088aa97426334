"""What one part writes and another reads: types and names, no I/O."""

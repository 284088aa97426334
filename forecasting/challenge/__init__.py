"""The challenge file: its types, its checks, its one reader."""

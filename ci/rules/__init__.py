"""The branch rules of .github/rulesets, applied and checked."""

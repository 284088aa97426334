"""The gate: run the pipeline on a commit, judge its model, report, set the status."""

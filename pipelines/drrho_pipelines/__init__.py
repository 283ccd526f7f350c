"""The pipelines, what compiles and runs them, and the console script `drrho`."""

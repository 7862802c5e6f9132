"""Executes queued runs: claims a run, supervises its trainer and publishes the result."""

"""What the figures of README.md and docs/performance.md come from; one command each."""

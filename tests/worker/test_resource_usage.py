"""What a worker uses of its machine, measured on real processes."""

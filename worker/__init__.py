"""Claims runs, supervises their trainers and publishes their results."""

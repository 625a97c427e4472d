"""Training: settings, the loop, its objective, optimizer, schedule and metrics."""

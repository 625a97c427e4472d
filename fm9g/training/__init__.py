"""Training: settings, the loop, its objective, optimizer, schedule, checkpoints and metrics."""

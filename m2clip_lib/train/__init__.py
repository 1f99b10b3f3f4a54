"""Training: the loop, one step, the optimizer, and how an interrupted run continues."""

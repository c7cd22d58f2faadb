"""What fusion buys: the fused MLPs timed against everything a user would pick instead, on one GPU, in one run."""

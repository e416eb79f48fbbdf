"""What touches Lightning: steps and logs, checkpoints, the lean loop, interruptions, the certificate."""

"""Models as training tasks, and trained ones at work."""

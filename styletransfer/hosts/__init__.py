"""Black-box effects: descriptions, render workers and the probe."""

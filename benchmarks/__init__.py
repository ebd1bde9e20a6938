"""Speed and memory as ratios, each measured in one run beside a plain loop or the best library."""

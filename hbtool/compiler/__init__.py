"""From the INTEGER graph to a Program: segments, tiles, schedule, addresses, instructions."""

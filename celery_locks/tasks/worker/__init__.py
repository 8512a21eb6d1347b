"""The components of a worker next to its tasks: checks at the start, the sweeper, the reaper, remote commands."""

"""What runs in a worker next to the tasks: checks at its start, the sweeper, the reaper, what it answers."""

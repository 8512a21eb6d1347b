"""The parts that depend on the process: its clock, its threads, its forks, the hubs of its greenlets."""

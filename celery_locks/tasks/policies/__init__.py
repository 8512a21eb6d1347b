"""What happens to a run that finds its key held."""

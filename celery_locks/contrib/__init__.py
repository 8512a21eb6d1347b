"""For frameworks: each part needs its own."""

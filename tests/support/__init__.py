"""What the tests stand on: real servers, real workers, a network that fails on demand, and waiting without sleeping."""

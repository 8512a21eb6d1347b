"""The wire client for Redis and Valkey servers: addresses, connections, requests and replies."""

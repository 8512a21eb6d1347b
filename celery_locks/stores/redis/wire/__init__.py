"""The way to a Redis or Valkey server: addresses, connections, requests, scripts by their digest."""

"""Redis 6.2+ and Valkey."""

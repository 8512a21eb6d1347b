"""The messages of locked tasks: our header in them, and how they are published again."""

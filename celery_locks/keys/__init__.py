"""Keys: made from the arguments of a call, written as text, and named in a store."""

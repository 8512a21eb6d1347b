"""Leases in tables: what SQLite, PostgreSQL and MySQL have in common, and the store of the two servers.

`schema` names the tables, `leases` and `tickets` hold the rules, written once for all three; each database brings a
`session.Session` to run them in. This package imports SQLAlchemy where a server is asked for, and nowhere else.
"""

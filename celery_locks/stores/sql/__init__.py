"""Leases in tables: the rules shared by SQLite, PostgreSQL and MySQL, and the stores of the two servers.

`schema` defines the tables. `leases` and `tickets` hold the rules, written once for all three databases. Each database
runs them in a `session.Session` of its own. SQLite imports none of the modules that need SQLAlchemy.
"""

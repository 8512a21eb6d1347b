"""The demo: it runs the shop with workers, kills one of them, and checks the promises of the locks."""

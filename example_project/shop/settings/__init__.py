"""Where messages travel and leases lie: a module for each place, chosen by the variable ``SHOP_RUNS_ON``."""

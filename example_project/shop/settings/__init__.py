"""The broker and the lock store: a module for each choice. The variable ``SHOP_RUNS_ON`` selects one."""

"""Redis or Valkey for both: messages in one database, leases in another. What most sites have."""

import os

broker_url = os.environ.get("SHOP_BROKER", "redis://localhost:6379/0")
# A server of its own is better still, with `maxmemory-policy noeviction`: a lease that is evicted is lost.
locks_url = os.environ.get("SHOP_LOCKS", "redis://localhost:6379/1")

broker_transport_options = {
    # Redis delivers again what was not acknowledged for so many seconds. It must be more than the longest task takes,
    # or that task's message comes a second time while the first is still worked on: the lock keeps them apart then.
    "visibility_timeout": 3600,
}

"""Redis or Valkey for both: messages in one database, leases in another. Most sites are like this."""

import os

broker_url = os.environ.get("SHOP_BROKER", "redis://localhost:6379/0")
# A server of its own is better still, with `maxmemory-policy noeviction`: a lease that is evicted is lost.
locks_url = os.environ.get("SHOP_LOCKS", "redis://localhost:6379/1")

broker_transport_options = {
    # After this many seconds an unacknowledged message is delivered again. It must be more than the longest task takes.
    # Otherwise the message is delivered twice while its task runs, and only the lock keeps the two runs apart.
    "visibility_timeout": 3600,
}

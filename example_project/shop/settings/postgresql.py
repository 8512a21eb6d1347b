"""A database without Redis: messages in RabbitMQ, leases in PostgreSQL. The store makes its tables at the first use."""

import os

broker_url = os.environ.get("SHOP_BROKER", "amqp://guest:guest@localhost:5672//")
locks_url = os.environ.get("SHOP_LOCKS", "postgresql://shop:shop@localhost:5432/shop")

# Sending waits for the broker's confirmation, because a deferred task exists only as its message.
broker_transport_options = {"confirm_publish": True}

"""A database and no Redis: messages by RabbitMQ, leases in PostgreSQL, which makes its tables at the first use."""

import os

broker_url = os.environ.get("SHOP_BROKER", "amqp://guest:guest@localhost:5672//")
locks_url = os.environ.get("SHOP_LOCKS", "postgresql://shop:shop@localhost:5432/shop")

# A message that is sent is one that has arrived: a task that is put off has no other message.
broker_transport_options = {"confirm_publish": True}

"""No server: messages in a folder, leases in a file. For one machine: development, demos, small sites."""

import os
from pathlib import Path

from example_project.shop import files_broker

files_broker.register()

folder = Path(os.environ.get("SHOP_FOLDER", "shop-files")).absolute()
folder.mkdir(exist_ok=True)

broker_url = f"files:///{folder}/messages"
locks_url = f"sqlite:///{folder}/locks.db"

beat_schedule_filename = str(folder / "beat-schedule")
# A broker made of files has to be polled for messages.
broker_transport_options = {"polling_interval": 0.02}
# It has no broadcasts, which remote control needs.
worker_enable_remote_control = False

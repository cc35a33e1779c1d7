"""What the emulator lacks of AWS, completed service by service. Runs in the emulator's environment, not in the project's."""

SERVICES = ("network", "buckets", "images", "queues", "database", "alarms", "logs")  # a module each, with complete()

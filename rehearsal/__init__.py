"""A deploy that is tried on this machine: a real CDK, real images and a real PostgreSQL on an emulator of AWS."""

"""The configuration: schema of the shared keys, checks, identity, and building objects from it."""

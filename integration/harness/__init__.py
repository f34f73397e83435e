"""The harness of the integration tests: objects for a stack, its clients and its faults."""

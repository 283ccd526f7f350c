"""A real Kubernetes for the tests, on one machine: built, started and removed without Docker and without a registry."""

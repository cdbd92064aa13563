"""Keeps the fleet as the operator wants it: API, desired state, reconciler, Docker, providers."""

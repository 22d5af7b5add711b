"""Envoy's external processing messages under a package name of our own."""

"""The Open Inference Protocol's messages under a package name of our own."""

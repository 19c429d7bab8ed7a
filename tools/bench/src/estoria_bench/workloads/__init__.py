"""What is measured; a module for each backend, with a list called `WORKLOADS`."""

"""What the tests of the tools share."""

# Run by `test_third_party`, in an environment of its own.
collect_ignore = ["third_party"]

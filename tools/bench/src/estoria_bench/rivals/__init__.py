"""The same work with other libraries."""

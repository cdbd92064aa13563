"""The exit image: its Dockerfile and what builds it."""

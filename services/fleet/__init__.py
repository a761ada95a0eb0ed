"""The models that are served, and their replicas: which runtime a request goes to."""

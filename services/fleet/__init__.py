"""The served models by name, and their replicas: which model and which runtime a request goes to.

This package starts no runtimes and loads no models: `services/app/load_models.py` builds the catalog.
"""

#: What other packages may import, by module.
FACE = {"catalog": ("Adapter", "Catalog", "ServedModel"), "replicas": ("Replicas",)}

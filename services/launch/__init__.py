"""Runs SGLang on this machine: gets the model's files, starts the process, and restarts it if it dies.

`generic_cpu` is a plug-in that SGLang loads in its own process (pyproject.toml names it). Sends no requests
to SGLang: `runtimes` does.
"""

#: What other packages may import, by module.
FACE = {
    "local_sglang": ("LaunchError", "LaunchState", "LocalSGLang"),
    "model_packages": ("MODEL_PACKAGES",),
    "model_store": ("ModelUnavailable", "resolve"),
}

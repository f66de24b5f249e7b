"""The login node and the host side of a node. Nothing here imports torch, mlflow or trainer at start."""

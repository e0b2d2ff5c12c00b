"""What scripts import of the Azure inference server: its package api. It is
found only where the environment does not have the package itself."""

__version__ = "1.5.1"

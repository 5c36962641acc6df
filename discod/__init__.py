"""discod: people who may not share their data train a model together, peer to peer."""

__version__ = "0.1.0"

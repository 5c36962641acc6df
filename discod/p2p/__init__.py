"""Peer to peer: moves vectors that it does not understand (floors 3 and 4)."""

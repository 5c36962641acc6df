"""The daemon: the only place where p2p and train meet. It joins store, identity, mesh, control and runs."""

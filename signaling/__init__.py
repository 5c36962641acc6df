"""The meeting server: introduces peers and relays ciphertext; trusted for nothing but liveness."""

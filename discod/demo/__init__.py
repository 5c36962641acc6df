"""The demo: a signaling node and peers as processes of their own, using what three users on three machines would use."""

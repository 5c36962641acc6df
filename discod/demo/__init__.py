"""The demo: a signaling node and peers as processes of their own, doing what people on machines of their own would."""

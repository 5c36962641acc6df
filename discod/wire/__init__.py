"""Every message that crosses a socket: frozen msgspec structs, one file per conversation.

codec      bytes <-> structs, canonical form, hashes, limits
rounds     what the peers of a task sign and say to each other (docs/protocol.md, rounds)
links      what two linked daemons say beneath that (frames, records, keepalive)
signaling  what a daemon and the signaling node say
"""

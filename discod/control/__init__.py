"""The control API: HTTP/1.1 and JSON on a unix socket that only its owner may use.

events  what happened, numbered, in a ring; also a stream
app     a table of operations becomes an ASGI application
serve   the application on a unix socket, by trio
"""

"""The HTTP server: an ASGI app over one engine a model, with one file a protocol (extra `[server]`)."""

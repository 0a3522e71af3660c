"""HTTP and the WebSocket handshake: FastAPI, uvicorn and what we add to them."""

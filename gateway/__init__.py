"""Portcullis, a secured WebSocket gateway with role-based access control."""

"""asyncio and the ports: what runs the core, without knowing any vendor."""

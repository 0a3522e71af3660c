"""The pure core: no await, no clock, no entropy, no input or output, no vendor but msgspec and hmac."""

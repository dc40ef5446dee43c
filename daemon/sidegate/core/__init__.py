"""Pure logic: no I/O, no asyncio, no clock. Standard library only."""

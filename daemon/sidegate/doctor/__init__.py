"""`sidegate doctor`: looks at a node, with a daemon or without one, and says what is wrong and what mends it.

`looking/` asks the engine, the kernel and the host's tools and makes one `Snapshot` of it all; `checks/` are pure
functions from the snapshot to findings. Changes nothing.
"""

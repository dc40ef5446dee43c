"""The data plane: worker processes that move bytes and know nothing but their routes."""

"""The warm pool of worker processes behind the processes backend."""

"""How data travels between processes: pickles, frames, shared memory."""

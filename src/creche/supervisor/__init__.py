"""Keeping containers alive: what to start, stop and give up is policy (pure); a loop carries it out."""

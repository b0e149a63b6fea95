"""vLLM as an engine: a driver in the supervisor, and a plug-in inside vLLM's processes.

The supervisor's side (`driver` and what it imports) imports neither torch nor vLLM, and alone holds
the key. vLLM's side (`plugin`, `loader`, `receive`, `child`, `door`) never sees it: it gets the
weights as sealed memfds over a unix socket.
"""

"""The engine that serves an opened model, behind one small Protocol (`protocol.Engine`)."""

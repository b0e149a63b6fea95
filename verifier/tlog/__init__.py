"""The transparency log, as seen by someone who trusts nobody: tree, note, checkpoint, receipt."""

//! Every field of a command, at its bounds and beyond.

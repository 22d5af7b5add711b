"""Around a model: instrument it, collect its signals, decode its outputs, fuse a monitor into it."""

"""Pure codecs: a Plan to bytes, failure records to errors, the init's messages; no policy and no I/O."""

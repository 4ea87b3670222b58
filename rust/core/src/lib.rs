#![doc = "Pure telemetry core."]
#![forbid(unsafe_code)]

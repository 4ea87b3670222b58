//! What one message may be at the most. A message over a limit is rejected, never cut.

/// Limits with safe defaults; every field is a setting of the service.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a message as it came.
    pub message_bytes: usize,
    /// Bytes after inflating, and bytes of `extra` that one message may produce.
    pub inflated_bytes: usize,
    /// Nesting of arrays and maps; at most 100.
    pub depth: usize,
    /// Values in one message, counting containers, items and keys' values.
    pub elements: usize,
    /// Bytes of a metric name, unit or device name; a b-tree key holds at most 2704.
    pub text_bytes: usize,
    /// Bytes of one reading's `extra`.
    pub extra_bytes: usize,
    /// Older readings are rejected: retention would drop them at once.
    pub retention_days: u32,
    /// A clock further ahead is broken, and would make partitions for the future.
    pub future_s: u32,
    /// A batch that holds so many rows takes no further message.
    pub batch_rows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 1 << 20,
            inflated_bytes: 8 << 20,
            depth: 32,
            elements: 200_000,
            text_bytes: 512,
            extra_bytes: 8192,
            retention_days: 730,
            future_s: 86_400,
            batch_rows: 100_000,
        }
    }
}

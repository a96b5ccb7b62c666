//! What stands behind `?`, as whoever asks writes it.

use std::fmt::Write;

use serde::Serialize;

/// `?protocol=6&sport=80`; empty when nothing is asked for.
pub(crate) fn query(asked: &impl Serialize) -> String {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(asked) else { return String::new() };
    let mut query = String::new();
    for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mark = if query.is_empty() { '?' } else { '&' };
        query += &format!("{mark}{name}={}", escaped(&value));
    }
    query
}

/// All but letters and digits as percent and two hexadecimal digits (RFC 3986 §2.1).
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() {
            true => escaped.push(byte.into()),
            // A string takes all that is written.
            false => _ = write!(escaped, "%{byte:02X}"),
        }
    }
    escaped
}

//! Command lines that were recorded, and what came back (`oracle/README.md`).

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// One command line, in the order of the recording.
#[derive(Deserialize)]
pub(crate) struct Vector {
    pub(crate) n: usize,
    pub(crate) argv: Vec<String>,
    pub(crate) stdin: Option<String>,
    pub(crate) rc: u8,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) stable_across_boots: bool,
    pub(crate) usage_text_follows_in: Option<String>,
}

#[derive(Deserialize)]
struct Recording<V> {
    vectors: Vec<V>,
}

/// The lines of a recording.
pub(crate) fn read<V: DeserializeOwned>(text: &str) -> Vec<V> {
    serde_json::from_str::<Recording<V>>(text).expect("a recording").vectors
}

//! Keys of SYN cookies: the system's random numbers, others each hour in which cookies were made.

use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

use lb_core::syn_cookie::Key;

use super::Control;
use crate::model::Change;

/// Far longer than a cookie is good for.
pub(super) const ROTATE_EVERY: Duration = Duration::from_secs(3600);

/// A key that nobody can guess.
///
/// # Errors
/// The system's.
pub(super) fn key() -> io::Result<Key> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let number = u128::from_ne_bytes(bytes);
    Ok([number as u64, (number >> 64) as u64])
}

impl Control {
    /// Exchanges the key, if it was used.
    pub(super) fn rotate_cookies(&mut self) {
        let made = self.plane.counters().iter().map(|worker| worker.cookies.syn_received.get()).sum();
        if made == self.cookies_made {
            return;
        }
        match key() {
            Ok(key) => {
                self.cookies_made = made;
                self.compiler.rotate_cookies(key);
                self.settle(&Change { publish: true, ..Change::default() });
            }
            Err(error) => tracing::warn!(%error, "the key of SYN cookies stays: no random numbers"),
        }
    }
}

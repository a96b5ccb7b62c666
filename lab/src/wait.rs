//! Waiting for a fact instead of for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a fact is waited for that is on its way: far longer than it takes, as a machine may have other things to do first. It is
/// spent only where the fact does not come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// When a fact is looked at again: soon at first, as most come soon, then less and less often up to this.
const FIRST_PERIOD: Duration = Duration::from_millis(1);
const LONGEST_PERIOD: Duration = Duration::from_millis(10);

/// Waits until `fact` is `Some`, and returns what it holds.
///
/// # Errors
/// Names `what` and `limit` when the fact did not come true in time.
pub fn until<T>(what: &str, limit: Duration, mut fact: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    let mut period = FIRST_PERIOD;
    loop {
        if let Some(value) = fact() {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {} s", limit.as_secs_f32());
        }
        std::thread::sleep(period);
        period = (period * 3 / 2).min(LONGEST_PERIOD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let value = until("third look", Duration::from_secs(5), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(value.ok(), Some(3));
    }

    #[test]
    fn a_fact_that_never_comes_true_is_named() {
        let error = until("pigs fly", Duration::ZERO, || None::<()>).map_err(|e| e.to_string());
        assert_eq!(error, Err("pigs fly: not within 0 s".to_owned()));
    }
}

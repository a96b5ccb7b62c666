//! From the start of `lbd` until it says that it is ready, with room for a million connections.

use anyhow::Result;

use super::{Context, Found};
use crate::lbd::{CONNECTIONS, Lbd, missing};
use crate::results::{Row, SECONDS};

pub(super) fn run(context: &Context) -> Result<Found> {
    if let Some(why) = missing(context) {
        return Ok(Found::left_out("lbd-ready", why));
    }
    let mut runs = Vec::new();
    for _ in 0..5 {
        let lbd = Lbd::start(context, 1)?;
        runs.push(lbd.start.as_secs_f64());
        lbd.stop();
    }
    Ok(Found {
        rows: vec![Row::new("lbd-ready", CONNECTIONS, SECONDS, runs)],
        notes: vec![
            "lbd-ready: from exec to its word to the service manager; room for 1,000,000 connections, two null ports with twins."
                .to_owned(),
        ],
    })
}

//! From the command that edits one real server until every worker uses the tables with it, among many virtual services.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Context, Found, succeeded};
use crate::lbd::{Lbd, address, missing};
use crate::results::{Row, SECONDS};

/// Virtual services, of ten real servers each.
const SERVICES: u32 = 1_000;
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(context: &Context) -> Result<Found> {
    if let Some(why) = missing(context) {
        return Ok(Found::left_out("publish-one-server", why));
    }
    let lbd = Lbd::start(context, SERVICES)?;
    let runs = (0..11).map(|n| edit(context, &lbd, n)).collect::<Result<Vec<f64>>>()?;
    lbd.stop();
    Ok(Found {
        rows: vec![Row::new("publish-one-server", 0, SECONDS, runs)],
        notes: vec![format!(
            "publish-one-server: from the start of `lbctl ipvsadm -e` until the worker uses the new weight; {SERVICES} virtual \
             services of 10 real servers; asking for it included."
        )],
    })
}

fn edit(context: &Context, lbd: &Lbd, n: u32) -> Result<f64> {
    let before = lbd.generation()?;
    let mut command = lbd.lbctl(context)?;
    command.args(["ipvsadm", "-e", "-t", &address(n * 37), "-r", "10.0.0.15:8080", "-m", "-w", "7"]);
    let begun = Instant::now();
    succeeded(&mut command)?;
    while lbd.generation()? <= before {
        if begun.elapsed() > PATIENCE {
            bail!("the worker still uses generation {before} of the tables");
        }
    }
    Ok(begun.elapsed().as_secs_f64())
}

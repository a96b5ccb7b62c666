//! From the command that edits one real server until every worker uses the tables with it, among few virtual services and
//! among many.

use std::time::Instant;

use anyhow::Result;

use super::restore::restore;
use super::{Context, Found, succeeded};
use crate::lbd::{Lbd, address, missing, server};
use crate::results::{Row, SECONDS};

/// Virtual services, of ten real servers each.
const SERVICES: [u32; 2] = [100, 10_000];

pub(super) fn run(context: &Context) -> Result<Found> {
    if let Some(why) = missing(context) {
        return Ok(Found::left_out("publish-one-server", why));
    }
    let edits = context.choose(31, 301);
    let mut found = Found::default();
    for services in SERVICES {
        let lbd = Lbd::start(context, 0)?;
        restore(context, &lbd, services)?;
        let at = |n: u32| (address(n * 37 % services), server(n * 37 % services * 10));
        let by_request = (0..edits).map(|n| {
            let (service, server) = at(n);
            let weight = n + 2;
            let before = lbd.generation()?;
            let begun = Instant::now();
            lbd.command(&format!(
                r#"{{"edit_server":{{"service":"tcp/{service}","server":{{"server":"{server}","weight":{weight}}}}}}}"#
            ))?;
            lbd.until_newer(before)?;
            Ok(begun.elapsed().as_secs_f64())
        });
        let by_request = by_request.collect::<Result<Vec<f64>>>()?;
        let by_lbctl = (0..11).map(|n| {
            let (service, server) = at(n);
            let before = lbd.generation()?;
            let mut command = lbd.lbctl(context)?;
            command.args(["ipvsadm", "-e", "-t", &service, "-r", &server, "-m", "-w", "1"]);
            let begun = Instant::now();
            succeeded(&mut command)?;
            lbd.until_newer(before)?;
            Ok(begun.elapsed().as_secs_f64())
        });
        let by_lbctl = by_lbctl.collect::<Result<Vec<f64>>>()?;
        lbd.stop();
        let name = |how: &str| format!("publish-one-server {services}x10{how}");
        found.rows.push(Row::new(&name(""), 0, SECONDS, by_request));
        found.rows.push(Row::new(&name(" by lbctl"), 0, SECONDS, by_lbctl));
    }
    found.notes.push(
        "publish-one-server: from the command, as a request on the API's socket, until the worker uses the new weight; 100 and \
         10,000 virtual services of 10 real servers; by lbctl: from the start of `lbctl ipvsadm -e`, a process; asking the \
         worker included."
            .to_owned(),
    );
    Ok(found)
}

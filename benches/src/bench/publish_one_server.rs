//! From the command that edits one real server until every worker uses the tables with it, among few virtual services and
//! among many, and while the worker forwards as many packets as it can.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_benches::traffic::{Flood, LEN, Transport};
use lb_control::pcapng::{self, Way};

use super::restore::{feed, restore};
use super::{Context, Found, succeeded, text};
use crate::lbd::{Lbd, address, missing, server};
use crate::results::{PER_SECOND, Row, SECONDS};

/// Virtual services, of ten real servers each.
const SERVICES: [u32; 2] = [100, 10_000];
/// Connections whose packets come meanwhile.
const FLOWS: u32 = 1_000;
/// Of DPDK's net_pcap, the first one.
const PCAP_MAC: [u8; 6] = [2, b'p', b'c', b'a', b'p', 0];

pub(super) fn run(context: &Context) -> Result<Found> {
    if let Some(why) = missing(context) {
        return Ok(Found::left_out("publish-one-server", why));
    }
    let edits = context.choose(31, 301);
    let mut found = Found::default();
    for services in SERVICES {
        let lbd = Lbd::start(context, 0)?;
        restore(context, &lbd, services)?;
        let by_request = by_request(&lbd, services, edits)?;
        let by_lbctl = (0..11).map(|n| {
            let (service, server) = place(n, services);
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
    let programs = (0..11).map(|_| {
        let begun = Instant::now();
        succeeded(&mut Command::new("true"))?;
        Ok(begun.elapsed().as_secs_f64())
    });
    found.rows.push(Row::new("publish-one-server true", 0, SECONDS, programs.collect::<Result<Vec<f64>>>()?));
    under_load(context, edits, &mut found)?;
    found.notes.push(format!(
        "publish-one-server: from the command, as a request on the API's socket, until the worker uses the new weight; 100 and \
         10,000 virtual services of 10 real servers; by lbctl: from the start of `lbctl ipvsadm -e`, a process; true: what starting the program `true` \
         takes; asking the worker included. Under load: the worker gets UDP packets of {FLOWS} open connections as fast as it takes them (net_pcap, from \
         memory) and forwards them meanwhile; per_second: what it sent, edits included; not one packet was dropped."
    ));
    Ok(found)
}

/// The n-th edit's virtual service and real server, spread over all.
fn place(n: u32, services: u32) -> (String, String) {
    let service = n * 37 % services;
    (address(service), server(service * 10))
}

/// Seconds that each of so many edits took.
fn by_request(lbd: &Lbd, services: u32, edits: u32) -> Result<Vec<f64>> {
    let edit = |n: u32| {
        let ((service, server), weight) = (place(n, services), n + 2);
        let before = lbd.generation()?;
        let begun = Instant::now();
        lbd.command(&format!(
            r#"{{"edit_server":{{"service":"tcp/{service}","server":{{"server":"{server}","weight":{weight}}}}}}}"#
        ))?;
        lbd.until_newer(before)?;
        Ok(begun.elapsed().as_secs_f64())
    };
    (0..edits).map(edit).collect()
}

fn under_load(context: &Context, edits: u32, found: &mut Found) -> Result<()> {
    let (capture, services) = (context.scratch.join("clients.pcapng"), SERVICES[1]);
    fs::write(&capture, clients())?;
    let lbd = Lbd::start_on(context, &format!("net_pcap0,rx_pcap={},infinite_rx=1", text(&capture)?), 0)?;
    for n in 0..10 {
        lbd.neighbour(&format!("10.0.0.{}", 11 + n), "lan")?;
    }
    restore(context, &lbd, services)?;
    let servers: Vec<String> =
        (11..21).map(|last| format!("-a -u 192.0.2.10:80 -r 10.0.0.{last}:80 -m\n")).collect();
    let mut command = lbd.lbctl(context)?;
    command.args(["ipvsadm", "-R"]).stdin(Stdio::piped());
    feed(&mut command, &format!("-A -u 192.0.2.10:80 -s rr\n{}", servers.concat()))?;
    settled(&lbd)?;
    let (begun, sent, lost) = (Instant::now(), sent(&lbd)?, lost(&lbd)?);
    let seconds = by_request(&lbd, services, edits)?;
    let (took, forwarded, dropped) = (begun.elapsed(), self::sent(&lbd)? - sent, self::lost(&lbd)? - lost);
    lbd.stop();
    ensure!(dropped == 0, "{dropped} of {forwarded} packets were dropped while real servers were edited");
    let name = format!("publish-one-server {services}x10 under load");
    let row = |metric, figures| Row::new(&name, FLOWS, metric, figures);
    found.rows.push(row(SECONDS, seconds));
    found.rows.push(row(PER_SECOND, vec![forwarded as f64 / took.as_secs_f64()]));
    Ok(())
}

/// Waits until every client's connection is there and nothing is dropped any more.
fn settled(lbd: &Lbd) -> Result<()> {
    let begun = Instant::now();
    loop {
        let before = (lost(lbd)?, sent(lbd)?);
        std::thread::sleep(Duration::from_millis(300));
        let after = (lost(lbd)?, sent(lbd)?);
        if after.0 == before.0 && after.1 > before.1 {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(10),
            "packets are still dropped: {:?}",
            lbd.list("/v1/drops")
        );
    }
}

/// Packets that went to real servers.
fn sent(lbd: &Lbd) -> Result<u64> {
    let ports = lbd.list("/v1/ports")?;
    let lan = ports.iter().find(|port| port["name"] == "lan").context("no port lan")?;
    lan["tx_packets"].as_u64().context("no count")
}

/// Packets that were dropped, for any reason.
fn lost(lbd: &Lbd) -> Result<u64> {
    Ok(lbd.list("/v1/drops")?.iter().filter_map(|drop| drop["packets"].as_u64()).sum())
}

/// A packet of each client, as a capture.
fn clients() -> Vec<u8> {
    let mut capture = Vec::new();
    pcapng::section(&mut capture, "bench");
    pcapng::interface(&mut capture, "wan");
    let mut clients = Flood::new(Transport::Udp, 0);
    for at in 0..u64::from(FLOWS) {
        let mut frame = [0; LEN];
        clients.write(&mut frame);
        frame[..6].copy_from_slice(&PCAP_MAC);
        let packet = pcapng::Packet {
            interface: 0,
            at,
            frame: &frame,
            len: LEN as u32,
            way: Way::Inbound,
            comment: "",
        };
        pcapng::packet(&mut capture, &packet);
    }
    capture
}

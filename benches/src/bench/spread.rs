//! How even the hashing schedulers are, how many clients move when a real server leaves, and how long a
//! Maglev table takes.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::Result;
use lb_core::ids::{ServerId, ServiceId};
use lb_core::ipvs::SchedulerKind;
use lb_core::ipvs::scheduler::{Loads, Request, States};
use lb_core::tables::{Forward, Protocol, Server, Service, ServiceKey};
use lb_core::time::Tick;

use super::{Context, Found};
use crate::results::{GREATEST_SHARE, MOVED, Row, SECONDS};

const SERVERS: u32 = 100;

/// Nobody has connections; those who hash do not ask.
struct Idle;

impl Loads for Idle {
    fn active(&self, _: ServerId) -> u64 {
        0
    }
    fn inactive(&self, _: ServerId) -> u64 {
        0
    }
    fn is_shared(&self) -> bool {
        false
    }
}

fn service(scheduler: SchedulerKind, servers: impl Iterator<Item = u32>) -> Service {
    let server =
        |n: u32| Server::new(ServerId(n), (Ipv4Addr::from(0x0a00_0001 + n).into(), 8080), 1, Forward::Masq);
    let key = ServiceKey::new(Protocol::TCP, Ipv4Addr::new(192, 0, 2, 10).into(), 80);
    Service::new(None, ServiceId(0), key, scheduler, servers.map(server).collect(), 1)
}

/// The server of each client.
fn picks(service: &Service, clients: u32) -> Vec<Option<u32>> {
    let mut states = States::new(SERVERS as usize);
    states.resize(1);
    let virtual_ = (service.key.address, service.key.port);
    let mut pick = |n: u32| {
        // Spread over the IPv4 addresses; each once.
        let client = IpAddr::from(Ipv4Addr::from(n.wrapping_mul(0x9e37_79b1)));
        let request = Request { client: (client, 40_000), virtual_, now: Tick(0) };
        states.pick(service, &Idle, &request).map(|index| service.servers[index].id.0)
    };
    (0..clients).map(&mut pick).collect()
}

pub(super) fn run(context: &Context) -> Result<Found> {
    let clients = context.choose(200_000, 2_000_000);
    let mut found = Found::default();
    for kind in [SchedulerKind::Sh, SchedulerKind::Mh, SchedulerKind::Maglev] {
        let before = picks(&service(kind, 0..SERVERS), clients);
        let mut shares = vec![0u32; SERVERS as usize];
        before.iter().flatten().for_each(|&server| shares[server as usize] += 1);
        let greatest = shares.iter().max().copied().unwrap_or(0);
        let mean = f64::from(clients) / f64::from(SERVERS);
        let moved = |gone: u32| {
            let after = picks(&service(kind, (0..SERVERS).filter(|&server| server != gone)), clients);
            let others = || before.iter().zip(&after).filter(|(before, _)| **before != Some(gone));
            others().filter(|(before, after)| before != after).count() as f64 / others().count() as f64
        };
        let row = |metric, runs| Row::new(&format!("{} {SERVERS}", kind.name()), 0, metric, runs);
        found.rows.push(row(GREATEST_SHARE, vec![f64::from(greatest) / mean]));
        found.rows.push(row(MOVED, [0, SERVERS / 2, SERVERS - 1].map(moved).to_vec()));
    }
    for servers in [100, 1_000] {
        let fill = |_| {
            let begun = Instant::now();
            black_box(service(SchedulerKind::Maglev, 0..servers));
            begun.elapsed().as_secs_f64()
        };
        let runs = (0..context.choose(5, 21)).map(fill).collect();
        found.rows.push(Row::new(&format!("maglev-fill {servers}"), 0, SECONDS, runs));
    }
    found.notes.push(format!(
        "SCHEDULER {SERVERS}: {clients} clients, {SERVERS} real servers of equal weight; greatest_share_to_mean: the busiest server's clients to the mean; \
         others_moved: when one server leaves (the first, the middle, the last), which part of the other servers' clients gets another one. \
         maglev-fill SERVERS: a virtual service with a table of 65,537 places is compiled."
    ));
    Ok(found)
}

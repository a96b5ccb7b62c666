//! Measures the packet path alone, in this process, and prints one line of JSON: the program that callgrind
//! runs, and a quick look at a change of `lb-core`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use lb_benches::flood::{self, Plan};
use lb_benches::measure::{Scenario, Visit};
use lb_benches::road::Road;
use lb_benches::runs::Runs;
use lb_benches::traffic::{Spread, Traffic};
use lb_core::ipvs::SchedulerKind;

#[derive(Parser)]
struct Arguments {
    /// masq-udp, masq-tcp, fullnat-udp, snat-udp, direct-udp, tunnel-udp, gue-udp, gre-udp, new-udp, new-tcp
    scenario: Scenario,
    /// Connections that are open
    #[arg(long, default_value_t = 1000)]
    flows: u32,
    /// Packets of each run
    #[arg(long, default_value_t = 4_000_000)]
    packets: u64,
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Begins no run after so long, once there are three
    #[arg(long)]
    milliseconds: Option<u64>,
    /// Connections that the table has room for
    #[arg(long)]
    capacity: Option<u32>,
    /// As in `ipvsadm -s`
    #[arg(long, default_value = "rr", value_parser = scheduler)]
    scheduler: SchedulerKind,
    /// Real servers
    #[arg(long, default_value_t = Spread::default().servers)]
    servers: u32,
    /// In chain INPUT
    #[arg(long, default_value_t = 0)]
    rules: u32,
    /// Measures how long packets wait and take that come at this share of the rate that the path can do
    #[arg(long, value_parser = load)]
    load: Option<f64>,
    /// Measures what open connections keep of their rate while so many times the new ones come that the
    /// worker can take: masq-udp, masq-tcp
    #[arg(long, conflicts_with_all = ["load", "rules"])]
    flood: Option<f64>,
}

fn load(text: &str) -> Result<f64, String> {
    let read = text.parse().ok().filter(|load| (0.01..1.0).contains(load));
    read.ok_or_else(|| format!("{text} is no share from 0.01 to below 1"))
}

fn scheduler(name: &str) -> Result<SchedulerKind, String> {
    SchedulerKind::from_name(name).ok_or(format!("no scheduler {name}"))
}

struct Measure {
    scenario: Scenario,
    flows: u32,
    capacity: u32,
    spread: Spread,
    rules: u32,
    packets: u64,
    runs: Runs,
    load: Option<f64>,
    flood: Option<f64>,
}

impl Visit for Measure {
    type Output = Result<String, String>;

    fn visit<T: Traffic + Send + 'static>(self, mut traffic: T) -> Self::Output {
        if let Some(times) = self.flood {
            let Scenario::Masq(transport) = self.scenario else {
                return Err("--flood is for masq-udp and masq-tcp".to_owned());
            };
            let Measure { flows, capacity, packets, runs, .. } = self;
            let kept = flood::measure(traffic, Plan { transport, flows, capacity, packets, runs, times });
            return serde_json::to_string(&kept).map_err(|error| error.to_string());
        }
        let mut road = Road::new(self.capacity, self.spread, self.rules);
        let done = match self.load {
            Some(load) => serde_json::to_string(&road.wait(&mut traffic, self.packets, self.runs, load)?),
            None => serde_json::to_string(&road.measure(&mut traffic, self.packets, self.runs)?),
        };
        done.map_err(|error| error.to_string())
    }
}

fn main() -> ExitCode {
    let Arguments {
        scenario,
        flows,
        packets,
        runs,
        milliseconds,
        capacity,
        scheduler,
        servers,
        rules,
        load,
        flood,
    } = Arguments::parse();
    let runs = Runs { most: runs, time: milliseconds.map_or(Duration::MAX, Duration::from_millis) };
    let spread = Spread { scheduler, servers };
    let capacity = capacity.unwrap_or(scenario.capacity(flows));
    match scenario
        .with(flows, Measure { scenario, flows, capacity, spread, rules, packets, runs, load, flood })
    {
        Ok(measured) => {
            println!("{measured}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{scenario}: {error}");
            ExitCode::FAILURE
        }
    }
}

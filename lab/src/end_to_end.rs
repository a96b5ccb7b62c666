//! The end-to-end benchmark: HTTP from the client to three nginx, through `lbd` and through its peers.
//!
//! Over veth the kernel's stacks at both ends and the generator are the limit, not the director: it compares ways through
//! the same machine on the same day, and is no measure of a NIC.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::client::{self, Reuse};
use crate::demo::step;
use crate::director::{Director, LbdPlan, program};
use crate::kernel_director::KernelDirector;
use crate::namespace::Namespace;
use crate::server::{HTTP_PORT, Nginx};
use crate::topology::{self, Lab, VIP};

/// Connections at a time.
const CONNECTIONS: u16 = 60;

/// A way from the client to the real servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Through {
    /// From a host on the servers' own switch to one of them: nobody in between.
    Direct,
    Lbd,
    Nft,
    Haproxy,
    NginxStream,
}

impl Through {
    const ALL: [Through; 5] =
        [Through::Direct, Through::Lbd, Through::Nft, Through::Haproxy, Through::NginxStream];

    /// Its name in `results.json`.
    fn name(self) -> &'static str {
        match self {
            Through::Direct => "direct",
            Through::Lbd => "lbd",
            Through::Nft => "nft",
            Through::Haproxy => "haproxy",
            Through::NginxStream => "nginx",
        }
    }

    /// Why it cannot be measured here, if so.
    fn missing(self) -> Option<&'static str> {
        match self {
            Through::Lbd if program("lbd").is_err() => Some("lbd is not built"),
            Through::Haproxy if !Path::new("/usr/sbin/haproxy").exists() => Some("haproxy is not installed"),
            Through::NginxStream if !Path::new("/usr/lib/nginx/modules/ngx_stream_module.so").exists() => {
                Some("libnginx-mod-stream is not installed")
            }
            _ => None,
        }
    }
}

/// What directs while a way is measured; dropped before its lab.
enum Directs {
    Nobody,
    Lbd(Director),
    Kernel(KernelDirector),
}

/// One figure with its runs.
struct Figure {
    through: &'static str,
    metric: &'static str,
    runs: Vec<f64>,
}

impl Figure {
    fn median(&self) -> f64 {
        self.runs[self.runs.len() / 2]
    }

    fn json(&self) -> Value {
        json!({
            "bench": "end-to-end", "through": self.through, "flows": CONNECTIONS, "rules": 0,
            "workers": u8::from(self.through == "lbd"), "metric": self.metric,
            "median": self.median(), "min": self.runs[0], "max": self.runs[self.runs.len() - 1],
            "runs": self.runs.len(),
        })
    }
}

/// Measures every way that this machine has, prints a table, and writes the figures to `file`.
///
/// # Errors
/// Whatever kept a way that is there from being measured.
pub fn run(seconds: u16, runs: u16, file: Option<&Path>) -> Result<()> {
    let mut figures = Vec::new();
    for through in Through::ALL {
        match through.missing() {
            Some(why) => println!("end-to-end: {}: left out: {why}", through.name()),
            None => figures.extend(
                step(
                    &format!(
                        "end-to-end: {} ({runs} × {seconds} s kept open, the same one request a connection)",
                        through.name()
                    ),
                    || measure(through, seconds, runs),
                )
                .with_context(|| format!("through {}", through.name()))?,
            ),
        }
    }
    print_table(&figures, seconds, runs);
    if let Some(file) = file {
        let list = Value::Array(figures.iter().map(Figure::json).collect());
        fs::write(file, format!("{list:#}\n")).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

fn measure(through: Through, seconds: u16, runs: u16) -> Result<Vec<Figure>> {
    let lab = Lab::new()?;
    let _servers = Nginx::start_all(&lab)?;
    let mut client: &Namespace = lab.client();
    let mut url = client::url(VIP.into(), 80, "/");
    let directs = match through {
        Through::Direct => {
            client = lab.switch();
            client.ip("addr add 10.0.0.2/24 dev br0")?;
            url = client::url(topology::server(0).into(), HTTP_PORT, "/");
            Directs::Nobody
        }
        Through::Lbd => Directs::Lbd(Director::start(&lab, &LbdPlan::default())?),
        Through::Nft => Directs::Kernel(KernelDirector::start(&lab)?),
        Through::Haproxy => Directs::Kernel(KernelDirector::haproxy(&lab)?),
        Through::NginxStream => Directs::Kernel(KernelDirector::nginx_stream(&lab)?),
    };
    client::curl(client, &url)?;
    let mut kept = Vec::new();
    let mut single = Vec::new();
    let mut costs = Vec::new();
    for _ in 0..runs {
        let before = cpu_seconds()?;
        let load = client::wrk(client, &url, CONNECTIONS, seconds, Reuse::KeptOpen)?;
        costs.push((cpu_seconds()? - before) / (load.requests_per_second * f64::from(seconds)) * 1e6);
        kept.push(load);
        single.push(client::wrk(client, &url, CONNECTIONS, seconds, Reuse::OneRequest)?);
    }
    if let Some(load) = kept.iter().chain(&single).find(|load| !load.errors.is_empty()) {
        bail!("wrk saw errors: {}", load.errors);
    }
    match directs {
        Directs::Lbd(director) => {
            director.stop()?;
        }
        Directs::Kernel(kernel) => drop(kernel),
        Directs::Nobody => {}
    }
    let figure = |metric, mut runs: Vec<f64>| {
        runs.sort_by(f64::total_cmp);
        Figure { through: through.name(), metric, runs }
    };
    Ok(vec![
        figure("requests_per_second", kept.iter().map(|load| load.requests_per_second).collect()),
        figure("connections_per_second", single.iter().map(|load| load.requests_per_second).collect()),
        figure("p50_ms", kept.iter().map(|load| load.p50_ms).collect()),
        figure("p99_ms", kept.iter().map(|load| load.p99_ms).collect()),
        figure("cpu_seconds_per_million_requests", costs),
    ])
}

/// What all CPUs of this machine have worked, in seconds: both ends and the generator, alike for every way, and what directs.
fn cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    parse_cpu_seconds(&stat).context("/proc/stat does not say what the CPUs did")
}

/// user, nice and system; not idle and iowait; irq and softirq. In hundredths (`USER_HZ`).
///
/// Source: proc_stat(5).
fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let busy = fields.get(..3)?.iter().chain(fields.get(5..7)?);
    Some(busy.sum::<u64>() as f64 / 100.0)
}

fn print_table(figures: &[Figure], seconds: u16, runs: u16) {
    let of = |through: Through, metric: &str| {
        let figure =
            figures.iter().find(|figure| figure.through == through.name() && figure.metric == metric);
        figure.map_or(f64::NAN, Figure::median)
    };
    println!(
        "\nHTTP over veth, {CONNECTIONS} connections, wrk with one thread, all on this machine; median of {runs} runs of {seconds} s"
    );
    println!(
        "{:<10} {:>12} {:>14} {:>10} {:>10} {:>14}",
        "through", "requests/s", "connections/s", "p50 ms", "p99 ms", "CPU s/million"
    );
    for through in Through::ALL {
        if through.missing().is_none() {
            println!(
                "{:<10} {:>12.0} {:>14.0} {:>10.2} {:>10.2} {:>14.1}",
                through.name(),
                of(through, "requests_per_second"),
                of(through, "connections_per_second"),
                of(through, "p50_ms"),
                of(through, "p99_ms"),
                of(through, "cpu_seconds_per_million_requests"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_waits_does_no_work() {
        let stat = "cpu  1000 200 300 5000 600 70 8 9 0 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        assert_eq!(parse_cpu_seconds(stat), Some(15.78));
        assert_eq!(parse_cpu_seconds("intr 1 2 3"), None);
    }
}

//! DPDK's own forwarder on the same null ports: `io` does nothing with a packet, `macswap` writes its MAC
//! addresses, `5tswap` MAC and IP addresses and ports. The ratio to the last says what knowing connections
//! costs.
//!
//! A null port's buffers have no content of their own. With `--tx-first` testpmd writes UDP packets into the
//! first ones, and as null ports do not touch buffers (`copy=0`) and a pool gives back what was freed last,
//! just these go round for ever, valid IPv4 and UDP each time. (Seen with `set verbose 3`: every packet
//! forwarded is `L2_ETHER L3_IPV4 L4_UDP`. Without `--tx-first` they are all zeros, and 5tswap has nothing to
//! do.)

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Context, Found, is_installed};
use crate::results::{NS, Row};

/// A quick run does without the first two.
const MODES: [&str; 3] = ["macswap", "io", "5tswap"];

pub(super) fn run(context: &Context) -> Result<Found> {
    if !is_installed("dpdk-testpmd") {
        return Ok(Found::left_out("testpmd", "dpdk-testpmd (package dpdk-dev) is not installed"));
    }
    // It takes three to start, and the first one of forwarding is not whole.
    let seconds = context.choose(9, 12);
    let mut found = Found::default();
    for &mode in context.choose(&MODES[2..], &MODES[..]) {
        let ns = measure(context, mode, seconds).with_context(|| format!("testpmd --forward-mode={mode}"))?;
        found.rows.push(Row::new(&format!("testpmd-{mode}"), 0, NS, ns));
    }
    found.notes.push(
        "testpmd-io, -macswap, -5tswap: dpdk-testpmd on two null ports, bursts of 32, one core, 64-byte UDP packets; a run is a \
         second."
            .to_owned(),
    );
    Ok(found)
}

fn measure(context: &Context, mode: &str, seconds: u32) -> Result<Vec<f64>> {
    // Prints its figures each second, until it is interrupted.
    let mut command = Command::new("timeout");
    command.args(["--signal=INT", "--kill-after=5", &seconds.to_string(), "dpdk-testpmd"]);
    let other = if context.cpu == 0 { 0 } else { context.cpu - 1 };
    command.arg(format!("--lcores=0@{other},1@{}", context.cpu));
    command.args(["--no-pci", "--no-telemetry", "--no-shconf"]);
    if context.huge_pages {
        command.arg("--in-memory");
    } else {
        command.args(["--no-huge", "-m", "256"]);
    }
    command.args([
        "--vdev=net_null0,size=60",
        "--vdev=net_null1,size=60",
        "--",
        "--nb-cores=1",
        "--burst=32",
    ]);
    command.args(["--total-num-mbufs=8192", "--stats-period=1", "--tx-first"]);
    command.arg(format!("--forward-mode={mode}"));
    let output = command.output()?;
    let rates = rates(&String::from_utf8_lossy(&output.stdout));
    if rates.len() < 3 {
        bail!("{}: it says: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(rates[1..].iter().map(|rate| 1e9 / rate).collect())
}

/// Packets a second that both ports received together, for each time that testpmd printed them.
fn rates(text: &str) -> Vec<f64> {
    let rates: Vec<f64> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Rx-pps:")?.split_whitespace().next()?.parse().ok())
        .collect();
    rates.chunks_exact(2).map(|ports| ports[0] + ports[1]).filter(|&rate| rate > 0.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rates_of_both_ports_are_added_up() {
        let text = "
Port statistics ====================================
  ######################## NIC statistics for port 0  ########################
  RX-packets: 0          RX-missed: 0          RX-bytes:  0

  Throughput (since last show)
  Rx-pps:            0          Rx-bps:            0
  Tx-pps:            0          Tx-bps:            0
  ######################## NIC statistics for port 1  ########################
  Rx-pps:            0          Rx-bps:            0
  Tx-pps:            0          Tx-bps:            0
  ######################## NIC statistics for port 0  ########################
  Rx-pps:     30000000          Rx-bps:  15360000000
  Tx-pps:     30000000          Tx-bps:  15360000000
  ######################## NIC statistics for port 1  ########################
  Rx-pps:     32500000          Rx-bps:  15360000000
  Tx-pps:     30000000          Tx-bps:  15360000000
";
        assert_eq!(rates(text), [62_500_000.0]);
    }
}

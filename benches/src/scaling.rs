//! How far workers scale: packets a second of 1 to 32 of them, calculated from what a packet costs one worker and what workers cost each
//! other. No machine with so many cores was there; what is assumed instead is a field of [`Costs`] or of [`Mix`], and stands in the page that
//! [`page`] writes (`docs/scaling.md`).
//!
//! Workers share nothing that a packet writes, so that without hand-over there is nothing but the busiest worker: flows are not of one
//! size, and a hash does not know which are large. That part is simulated: flows drawn from a heavy-tailed distribution and dealt out by
//! a hash, again and again.

use std::collections::BTreeMap;
use std::fmt::Write;

/// How packets come to their flow's owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steering {
    /// The port puts them into its queue: RSS by the client's end alone.
    Hardware,
    /// Any worker gets them, and hands them over.
    Software,
    /// The port has one queue: one worker gets them all, and hands them over.
    OneQueue,
}

impl Steering {
    pub const ALL: [Steering; 3] = [Steering::Hardware, Steering::Software, Steering::OneQueue];

    pub fn name(self) -> &'static str {
        match self {
            Steering::Hardware => "hardware steering",
            Steering::Software => "hand-over, a queue a worker",
            Steering::OneQueue => "hand-over, one queue",
        }
    }
}

/// Nanoseconds, unless a name says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// A packet of an open connection at its owner, ports included.
    pub established: f64,
    /// What a connection's beginning and end cost more than its packets do.
    pub life: f64,
    /// A packet that is another's: received, parsed, hashed, put into a ring.
    pub give: f64,
    /// What a packet costs its owner more that comes out of a ring than one that comes from a port.
    pub take: f64,
    /// What of a packet comes from the core that received it, of a burst that is fetched ahead.
    pub moved: f64,
    /// A cache line that another core wrote, and that is waited for.
    pub line: f64,
    /// A look at a ring in which nothing is.
    pub look: f64,
    /// Packets of a turn, from all ports, when a worker is busy.
    pub turn: f64,
    /// What a scheduler that counts all workers' connections reads of each other worker, for a new connection: cache lines.
    pub lines_of_counts: f64,
}

impl Default for Costs {
    fn default() -> Costs {
        Costs {
            established: 41.63,
            life: 336.0,
            give: 22.5,
            take: 9.5,
            moved: 15.0,
            line: 77.0,
            look: 1.5,
            turn: 64.0,
            lines_of_counts: 1.0,
        }
    }
}

/// What is to be forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub name: &'static str,
    /// Bytes of a frame, with its checksum, on average.
    pub frame: f64,
    /// Packets of a connection in both directions; infinite: none begins.
    pub packets_a_connection: f64,
    pub flows: u32,
    /// Exponent of the flows' sizes (Pareto): the smaller the more is in few flows. `None`: all are of one size.
    pub tail: Option<f64>,
    /// New connections go where the fewest are (`wlc`), counted over all workers.
    pub counts_connections: bool,
}

pub const MIXES: [Mix; 4] = [
    Mix {
        name: "64-byte packets of open connections, all alike",
        frame: 64.0,
        packets_a_connection: f64::INFINITY,
        flows: 1_000_000,
        tail: None,
        counts_connections: false,
    },
    Mix {
        name: "IMIX, connections of 20 packets, rr",
        frame: IMIX,
        packets_a_connection: 20.0,
        flows: 100_000,
        tail: Some(1.2),
        counts_connections: false,
    },
    Mix {
        name: "IMIX, connections of 20 packets, wlc",
        frame: IMIX,
        packets_a_connection: 20.0,
        flows: 100_000,
        tail: Some(1.2),
        counts_connections: true,
    },
    Mix {
        name: "IMIX, a few large flows",
        frame: IMIX,
        packets_a_connection: 10_000.0,
        flows: 1000,
        tail: Some(1.1),
        counts_connections: false,
    },
];

/// Frames of 64, 594 and 1518 bytes as 7 : 4 : 1.
const IMIX: f64 = (7.0 * 64.0 + 4.0 * 594.0 + 1518.0) / 12.0;
/// Preamble and gap.
const BETWEEN_FRAMES: f64 = 20.0;
/// Bits a second that both ports together receive.
const LINE: f64 = 2.0 * 100e9;

/// Workers in the tables.
const WORKERS: [u32; 6] = [1, 2, 4, 8, 16, 32];
/// Up to here it is looked for where it stops scaling: a power of two.
const MOST: u32 = 128;
/// Draws of all flows.
const DRAWS: u64 = 8;

/// What a worker spends on a packet, mean over those that it handles; and what the one spends that receives all, if one does.
fn cost(costs: &Costs, mix: &Mix, steering: Steering, workers: u32) -> (f64, Option<f64>) {
    let others = f64::from(workers - 1);
    let reads = if mix.counts_connections { costs.lines_of_counts * others * costs.line } else { 0.0 };
    let own = costs.established + (costs.life + reads) / mix.packets_a_connection;
    if workers == 1 {
        return (own, None);
    }
    // Each turn looks at all rings; those into which something was put cost a line at either end.
    let looks = others * costs.look / costs.turn;
    let rings = |packets: f64| others * (1.0 - (1.0 - 1.0 / others).powf(packets)) / packets * costs.line;
    let workers = f64::from(workers);
    match steering {
        // Rings are there, and empty.
        Steering::Hardware => (own + looks, None),
        Steering::Software => {
            let handed = others / workers;
            let ends = 2.0 * rings(costs.turn * handed);
            (own + looks + handed * (costs.give + costs.take + costs.moved + ends), None)
        }
        Steering::OneQueue => {
            let give = costs.give + rings(costs.turn);
            (own + costs.take + costs.moved + costs.line / costs.turn, Some(give))
        }
    }
}

/// Of all packets the busiest worker's, by how many own flows.
type Shares = BTreeMap<u32, f64>;

/// Packets a second that no worker loses any of.
fn packets_a_second(costs: &Costs, mix: &Mix, steering: Steering, workers: u32, shares: &Shares) -> f64 {
    match cost(costs, mix, steering, workers) {
        (each, None) => 1e9 / (each * shares[&workers]),
        // The one that receives them all owns none.
        (each, Some(give)) => (1e9 / (each * shares[&(workers - 1)])).min(1e9 / give),
    }
}

/// What the line lets through, packets a second.
fn line_rate(mix: &Mix) -> f64 {
    LINE / 8.0 / (mix.frame + BETWEEN_FRAMES)
}

/// SplitMix64 (Steele, Lea, Flood, 2014).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Above 0, up to 1.
    fn fraction(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

/// The busiest worker's share of all packets, on average over some draws of the flows; of powers of two, and of one fewer.
fn busiest(mix: &Mix) -> Shares {
    let powers = (0..=MOST.ilog2()).map(|n| 1 << n);
    let mut shares: Shares = powers.flat_map(|n| [n, n - 1]).filter(|&n| n > 0).map(|n| (n, 0.0)).collect();
    let Some(tail) = mix.tail else {
        shares.iter_mut().for_each(|(&workers, share)| *share = 1.0 / f64::from(workers));
        return shares;
    };
    for seed in 0..DRAWS {
        let mut draw = Draw(seed);
        // Of the least size 1; none is larger than all would be together if they were of that size.
        let size = |draw: &mut Draw| draw.fraction().powf(-1.0 / tail).min(f64::from(mix.flows));
        let flows: Vec<(f64, u64)> = (0..mix.flows).map(|_| (size(&mut draw), draw.next())).collect();
        let all: f64 = flows.iter().map(|flow| flow.0).sum();
        for (&workers, share) in &mut shares {
            let mut of = vec![0.0; workers as usize];
            for (size, hash) in &flows {
                of[((u128::from(*hash) * u128::from(workers)) >> 64) as usize] += size;
            }
            *share += of.into_iter().fold(0.0, f64::max) / all / DRAWS as f64;
        }
    }
    shares
}

/// From two on, and from so many workers, twice as many bring less than half as much again.
fn stops(rate: impl Fn(u32) -> f64) -> Option<u32> {
    (1..MOST.ilog2()).map(|n| 1 << n).find(|&workers| rate(2 * workers) < 1.5 * rate(workers))
}

/// The page that says all this.
pub fn page(costs: &Costs) -> String {
    let mut out = String::from(HEAD);
    let Costs { established, life, give, take, moved, line, look, turn, lines_of_counts } = costs;
    for (what, value, source) in [
        ("an established packet at its owner, ports included", established, "measured: masq-udp, 1 M flows"),
        (
            "a connection's beginning and end, beyond its packets",
            life,
            "measured: new-tcp, a life of 8 packets",
        ),
        (
            "giving a packet away: received, parsed, hashed, put into a ring",
            give,
            "measured: 19 ns by `scaling --measure`; and half of what testpmd-io takes",
        ),
        (
            "taking a packet out of a ring instead of from a port",
            take,
            "measured: 2 ns by `scaling --measure`, and 11 ns in the ring at both ends (decision 0045); less half of what testpmd-io takes",
        ),
        (
            "what of a packet comes from the core that received it, of a burst that is fetched ahead",
            moved,
            "assumed: two lines and a quarter of one of the ring, 3.8 ns each of many by `scaling --measure`, both ways",
        ),
        (
            "a cache line that another core wrote, and that is waited for",
            line,
            "measured: `scaling --measure`",
        ),
        ("a look at an empty ring", look, "assumed"),
    ] {
        let _ = writeln!(out, "| {what} | {value} ns | {source} |");
    }
    let _ = writeln!(out, "| packets of a turn, all ports, of a busy worker | {turn} | two ports' bursts |");
    let _ = writeln!(
        out,
        "| lines of each other worker's counts that `wlc` reads for a new connection | {lines_of_counts} | from the code |"
    );
    for mix in &MIXES {
        let (shares, most) = (busiest(mix), line_rate(mix));
        let _ = writeln!(out, "\n## {}\n", capitalised(mix.name));
        let _ = writeln!(
            out,
            "A frame is {:.0} bytes; {:.1} million a second fill the line.\n",
            mix.frame,
            most / 1e6
        );
        let row = |out: &mut String, what: &str, cell: &dyn Fn(u32) -> String, last: &str| {
            let cells = WORKERS.map(cell).join(" | ");
            let _ = writeln!(out, "| {what} | {cells} | {last} |");
        };
        row(&mut out, "workers", &|workers| workers.to_string(), "stops at");
        let _ = writeln!(out, "|---|{}---:|", "---:|".repeat(WORKERS.len()));
        let times = |workers| format!("{:.2}", shares[&workers] * f64::from(workers));
        row(&mut out, "the busiest one's packets, times an equal share", &times, "");
        for steering in Steering::ALL {
            let rate = |workers| packets_a_second(costs, mix, steering, workers, &shares);
            let cell = |workers| {
                let rate = rate(workers);
                format!("{:.1}{}", rate / 1e6, if rate > most { "*" } else { "" })
            };
            let last = stops(rate).map_or(format!("beyond {}", MOST / 2), |workers| workers.to_string());
            row(&mut out, &format!("{}, million packets a second", steering.name()), &cell, &last);
        }
    }
    out
}

const HEAD: &str = "\
# How far workers scale

Written by `cargo run --release -p lb-benches --bin scaling`; a test compares. It is a calculation (`benches/src/scaling.rs`): no machine
with so many cores was there. What a packet costs a worker can be measured; the rest follows from that, from how a hash deals flows out, which is
simulated, and from what is assumed.

- Workers share nothing that a packet writes ([ARCHITECTURE.md](../ARCHITECTURE.md), *Several workers*). With hardware steering a packet costs as much however many
  workers there are, but for a look at each other worker's ring a turn.
- Without it all packets but one in as many as there are workers are handed over: who receives one pays for giving, who owns it for taking, and
  the packet's lines move from one core to the other. Of a turn's packets the fewer go into each ring the more rings there are, so that the
  lines of the rings' ends are shared by fewer packets.
- `bench two-workers` measures two (100,000 connections, ports in memory, [RESULTS.md](../benches/RESULTS.md)): 2.0 times one's throughput where each gets its own packets, as
  below; **0.6 times where all are handed over, about half of what is calculated below** ([0045](decisions/0045-what-is-handed-over-goes-in-bursts.md)): one worker is better there.
- With one queue the worker that receives gives all away, and owns nothing itself: what it can give is the most that goes through.
- Flows are not of one size, and one flow is one worker's. The rate is that at which the busiest worker is full; the others are not. Sizes are
  Pareto's, the mean of several draws.
- Each worker has a core of its own (no hyper-threads), all in one socket, memory near; clocks do not fall with the number of
  busy cores; memory and PCIe carry what the line does. Two ports of 100 Gbit/s, one towards clients and one towards servers; with a star stands what
  is more than they receive.
- *Stops at*: from two workers on, so many twice of which bring less than half as much again. The line is left out of that.

| costs | | where from |
|---|---:|---|
";

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: Mix = MIXES[0];

    fn rate(steering: Steering, workers: u32) -> f64 {
        packets_a_second(&Costs::default(), &EVEN, steering, workers, &busiest(&EVEN))
    }

    #[test]
    fn the_page_is_as_the_calculation_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/scaling.md");
        let page = page(&Costs::default());
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == page, "write it anew: scaling > docs/scaling.md");
    }

    #[test]
    fn one_worker_is_what_was_measured_however_packets_would_be_steered() {
        for steering in Steering::ALL {
            assert!((rate(steering, 1) - 1e9 / Costs::default().established).abs() < 1.0);
        }
    }

    #[test]
    fn hand_over_costs_and_one_queue_is_the_end_of_it() {
        for workers in [2, 4, 8, 16, 32] {
            let [hardware, software, one] = Steering::ALL.map(|steering| rate(steering, workers));
            assert!(hardware > software && software > f64::from(workers) / 4.0 * rate(Steering::Hardware, 1));
            assert!(one <= 1e9 / Costs::default().give);
        }
    }

    #[test]
    fn the_busiest_worker_has_the_largest_flow_at_least() {
        for (workers, share) in busiest(&Mix { flows: 1000, ..MIXES[1] }) {
            assert!((1.0 / f64::from(workers) - 1e-9..=1.0 + 1e-9).contains(&share), "{workers}: {share}");
        }
        // Half of what is sent is one flow's: no number of workers makes the busiest one's share less.
        assert!(busiest(&Mix { flows: 2, tail: Some(1.0), ..EVEN }).values().all(|share| *share >= 0.5));
    }
}

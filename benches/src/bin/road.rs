//! Prints what a packet costs in the path.
use lb_benches::road::{Road, Transport};
use lb_benches::tsc;
use lb_core::mem::Region;

fn main() {
    let per_ns = tsc::per_nanosecond();
    let want: Vec<String> = std::env::args().skip(1).collect();
    for transport in [Transport::Udp, Transport::Tcp] {
        for flows in [1_000u32, 100_000, 1_000_000] {
            if !want.is_empty() && !want.iter().any(|w| *w == format!("{transport:?}-{flows}")) {
                continue;
            }
            let mut road = Road::new(transport, flows, Region::heap(Road::memory(flows)));
            let mut costs = Vec::new();
            let packets = std::env::var("ROAD_PACKETS").map_or(4_000_000, |n| n.parse().unwrap());
            road.established(flows, packets, &mut costs, if packets < 1_000_000 { 1 } else { 5 });
            let mut ns: Vec<f64> = costs.iter().map(|c| c.cycles / per_ns).collect();
            ns.sort_by(f64::total_cmp);
            println!(
                "{transport:?} {flows}: {:.1} ns (min {:.1} max {:.1}), generator {:.1}; sent {:?}",
                ns[ns.len() / 2],
                ns[0],
                ns[ns.len() - 1],
                costs[0].generator_cycles / per_ns,
                road.sent()
            );
        }
    }
    if want.is_empty() || want.iter().any(|w| w == "new") {
        let mut road = Road::new(Transport::Udp, 1_200_000, Region::heap(Road::memory(1_200_000)));
        let mut costs = Vec::new();
        road.new_flows(4_000_000, 1_000_000, &mut costs, 5);
        for c in costs {
            println!(
                "new udp {:.1} ns = {:.2} M/s, gen {:.1}",
                c.cycles / per_ns,
                1e3 / (c.cycles / per_ns),
                c.generator_cycles / per_ns
            );
        }
        println!(
            "{:?} {} {}",
            road.sent(),
            road.counters().flows.expired.get(),
            road.counters().flows.full.get()
        );
    }
}

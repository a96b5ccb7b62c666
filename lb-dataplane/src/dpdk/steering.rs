//! How ports spread what they receive over their queues: decided for all ports together, from what their devices can do.
//!
//! Best is by the client's end alone ([`lb_core::rss`]): then nothing is handed over. It takes a device that hashes addresses and ports of TCP and UDP, has a
//! queue for each worker, and takes a key and a table of ours; nothing is assumed of one that does not say so.

use dpdk_sys as sys;
use lb_core::rss::{End, KEY_LEN, Lack, MOST_BITS, Means, Spread};

/// What a device says that it can do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Can {
    /// Of receive and transmit queues the fewer.
    pub(crate) queues: u16,
    /// DPDK's `flow_type_rss_offloads`.
    pub(crate) types: u64,
    /// Bytes of its key, 0: it takes none.
    pub(crate) key_len: u8,
    /// Places of its table, 0: it takes none.
    pub(crate) places: u16,
    /// It spreads packets without being asked.
    pub(crate) by_itself: bool,
}

/// How all ports spread.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    /// By port.
    pub(crate) spreads: Vec<Spread>,
    /// What the tables of those that look at one end are looked into by.
    pub(crate) bits: u32,
}

impl Plan {
    /// By what ports look at one end, if any do.
    pub(crate) fn means(&self) -> Option<Means> {
        self.spreads.iter().find_map(|spread| match spread {
            Spread::OneEnd(_, means) => Some(*means),
            _ => None,
        })
    }
}

const SOURCE_ONLY: u64 = sys::LB_RSS_SOURCE_ONLY_HALVED << 1;
const FIELDS: u64 = SOURCE_ONLY | sys::LB_RSS_DESTINATION_ONLY;

/// Plans for ports, of each what its device can do and whether clients are out there.
pub(crate) fn plan(ports: &[(Can, bool)], workers: u16) -> Plan {
    let able = || ports.iter().map(|(can, _)| can).filter(|can| lack(can, workers).is_none());
    // One means for all, so that they agree.
    let means = if able().all(|can| can.types & FIELDS == FIELDS) { Means::Fields } else { Means::Key };
    let bits = able().map(|can| can.places.ilog2()).min().unwrap_or(0).min(MOST_BITS);
    // Where nobody says on which side clients are, and where both are on one, at least what clients send comes to its worker.
    let is_told = ports.iter().any(|(_, outside)| *outside) && !ports.iter().all(|(_, outside)| *outside);
    let spread = |(can, outside): &(Can, bool)| {
        if workers == 1 || can.queues == 1 || can.types & sys::LB_RSS_L3_L4 == 0 {
            return if workers > 1 && can.queues > 1 && can.by_itself {
                Spread::ItsWay
            } else {
                Spread::OneQueue
            };
        }
        match lack(can, workers) {
            Some(lack) => Spread::BothEnds(lack),
            None if *outside || !is_told => Spread::OneEnd(End::Source, means),
            None => Spread::OneEnd(End::Destination, means),
        }
    };
    Plan { spreads: ports.iter().map(spread).collect(), bits }
}

/// What a device lacks for looking at one end.
fn lack(can: &Can, workers: u16) -> Option<Lack> {
    match can {
        _ if can.types & sys::LB_RSS_PORTS != sys::LB_RSS_PORTS => Some(Lack::Ports),
        _ if can.queues < workers => Some(Lack::Queues),
        _ if usize::from(can.key_len) < KEY_LEN => Some(Lack::Key),
        _ if !can.places.is_power_of_two() || can.places < workers => Some(Lack::Table),
        // More workers than places that are looked at.
        _ if workers > 1 << MOST_BITS => Some(Lack::Table),
        _ => None,
    }
}

/// The kinds of packets that a port is asked to hash: what it can, by one end or both.
pub(crate) fn types(can: u64, spread: Spread) -> u64 {
    let kinds = can & sys::LB_RSS_L3_L4;
    match spread {
        Spread::OneQueue | Spread::ItsWay => 0,
        Spread::OneEnd(End::Source, Means::Fields) => kinds | SOURCE_ONLY,
        Spread::OneEnd(End::Destination, Means::Fields) => kinds | sys::LB_RSS_DESTINATION_ONLY,
        Spread::BothEnds(_) | Spread::OneEnd(_, Means::Key) => kinds,
    }
}

/// Of these kinds those without which packets do not come to their worker: a driver that does not say them afterwards has not done it.
pub(crate) fn needed(asked: u64) -> u64 {
    asked & (sys::LB_RSS_PORTS | FIELDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(types: u64, key_len: u8, places: u16) -> Can {
        Can { queues: 16, types, key_len, places, by_itself: false }
    }

    /// What drivers of DPDK 22.11 say of devices, as their `dev_infos_get` has it.
    fn driver(name: &str) -> Can {
        match name {
            "i40e" => card(0x7ef8, 52, 512),
            "iavf" => card(0x3ffc, 52, 64),
            "ice" => card(0x7ffc, 52, 2048),
            "ixgbe" => card(0x3_8d34, 40, 128),
            "mlx5" => card(0x3_afbc | FIELDS, 40, 512),
            "ena" => card(0xc30, 40, 128),
            "virtio with VIRTIO_NET_F_RSS" => card(0x3_8d34, 40, 128),
            "vmxnet3 version 4" => card(0xd34, 0, 64),
            "vmxnet3 version 3" => card(0x514, 0, 64),
            // It has RSS since DPDK 24.03.
            "gve" => Can { by_itself: true, ..card(0, 0, 0) },
            "gve of DPDK 24.03" => card(0x3_8d34, 40, 128),
            "virtio without" | "af_packet" => Can { by_itself: true, ..card(0, 0, 0) },
            "tap" => Can { by_itself: true, ..card(0x3_afbc, 40, 0) },
            other => panic!("{other}"),
        }
    }

    /// For a port towards clients and one towards servers of that driver.
    fn two(name: &str, workers: u16) -> Plan {
        plan(&[(driver(name), true), (driver(name), false)], workers)
    }

    #[test]
    fn cards_that_take_a_key_and_a_table_look_at_one_end_under_a_key_that_leaves_the_other_out() {
        let bits = [
            ("i40e", 9),
            ("iavf", 6),
            ("ice", 9),
            ("ixgbe", 7),
            ("ena", 7),
            ("virtio with VIRTIO_NET_F_RSS", 7),
            ("gve of DPDK 24.03", 7),
        ];
        for (name, bits) in bits {
            for workers in [2, 4, 16] {
                let key = |end| Spread::OneEnd(end, Means::Key);
                let spreads = vec![key(End::Source), key(End::Destination)];
                assert_eq!(two(name, workers), Plan { spreads, bits }, "{name}, {workers} workers");
            }
        }
        let key = Spread::OneEnd(End::Destination, Means::Key);
        assert_eq!(types(driver("ena").types, key), driver("ena").types);
    }

    #[test]
    fn cards_that_can_hash_one_end_alone_are_asked_to_when_all_can() {
        let plan_of = two("mlx5", 4);
        let fields = |end| Spread::OneEnd(end, Means::Fields);
        assert_eq!(plan_of.spreads, [fields(End::Source), fields(End::Destination)]);
        assert_eq!(plan_of.means(), Some(Means::Fields));
        let all = driver("mlx5").types;
        for (spread, only) in plan_of.spreads.iter().zip([SOURCE_ONLY, sys::LB_RSS_DESTINATION_ONLY]) {
            let asked = types(all, *spread);
            assert_eq!(asked & FIELDS, only);
            assert_eq!(asked & !FIELDS, all & sys::LB_RSS_L3_L4);
            assert_eq!(needed(asked), only | sys::LB_RSS_PORTS, "and it must be so afterwards");
        }

        let mixed = plan(&[(driver("mlx5"), true), (driver("ixgbe"), false)], 4);
        let key = |end| Spread::OneEnd(end, Means::Key);
        assert_eq!(mixed, Plan { spreads: vec![key(End::Source), key(End::Destination)], bits: 7 });
    }

    #[test]
    fn what_a_card_lacks_is_named_and_it_spreads_by_both_ends() {
        let both = |lack| vec![Spread::BothEnds(lack); 2];
        assert_eq!(two("vmxnet3 version 4", 4).spreads, both(Lack::Key));
        assert_eq!(two("vmxnet3 version 3", 4).spreads, both(Lack::Ports));
        assert_eq!(two("tap", 4).spreads, both(Lack::Table));
        assert_eq!(two("ixgbe", 17).spreads, both(Lack::Queues));
        let odd = Can { places: 96, ..driver("ice") };
        assert_eq!(plan(&[(odd, true)], 4).spreads, [Spread::BothEnds(Lack::Table)]);
        assert_eq!(two("vmxnet3 version 4", 4).means(), None);
    }

    #[test]
    fn what_hashes_nothing_spreads_in_its_own_way_or_not_at_all() {
        for name in ["af_packet", "gve", "virtio without"] {
            assert_eq!(two(name, 4).spreads, [Spread::ItsWay; 2], "{name}");
            assert_eq!(two(name, 1).spreads, [Spread::OneQueue; 2]);
            assert_eq!(types(driver(name).types, Spread::ItsWay), 0);
        }
        let one_queue = Can { queues: 1, ..driver("af_packet") };
        assert_eq!(plan(&[(one_queue, true)], 4).spreads, [Spread::OneQueue]);
        assert_eq!(two("ice", 1).spreads, [Spread::OneQueue; 2], "one worker has all");
    }

    #[test]
    fn a_port_that_both_sides_share_and_ports_of_which_nobody_says_it_look_at_the_source() {
        let source = Spread::OneEnd(End::Source, Means::Key);
        for sides in [vec![true], vec![false], vec![false, false], vec![true, true]] {
            let ports: Vec<_> = sides.iter().map(|&outside| (driver("ice"), outside)).collect();
            assert_eq!(plan(&ports, 2).spreads, vec![source; sides.len()]);
        }
    }

    #[test]
    fn a_port_that_cannot_leaves_the_others_their_way() {
        let ports = [(driver("i40e"), true), (driver("af_packet"), false), (driver("ena"), false)];
        let plan = plan(&ports, 8);
        let key = |end| Spread::OneEnd(end, Means::Key);
        assert_eq!(plan.spreads, [key(End::Source), Spread::ItsWay, key(End::Destination)]);
        assert_eq!(plan.bits, 7, "as many as the shortest table has");
    }
}

//! Which new connections are not begun, so that those that there are have room: `drop_packet`.
//!
//! It is asked for the first packet of a connection to a virtual service alone, before a real server is picked.
//!
//! Source of the facts: Linux, `Documentation/networking/ipvs-sysctl.rst`, `ip_vs_todrop` and `update_defense_level`.

use crate::tables::Sysctls;

/// Always one in so many, as the operator says.
const FIXED: u32 = 3;

/// Counts what is let in between two that are not.
#[derive(Debug, Default)]
pub(super) struct Shed {
    let_in: u32,
}

impl Shed {
    /// Whether the connection that would begin now does not. `free`: places that the flow tables of all workers have left, as this worker
    /// reckons them from its own.
    pub(super) fn drops(&mut self, sysctls: &Sysctls, free: u64) -> bool {
        let one_in = match sysctls.drop_packet {
            0 => 0,
            FIXED => sysctls.am_droprate,
            _ => one_in(sysctls.amemthresh, free),
        };
        if one_in == 0 {
            return false;
        }
        self.let_in += 1;
        let is_due = self.let_in >= one_in;
        if is_due {
            self.let_in = 0;
        }
        is_due
    }
}

/// The fewer places are left below `threshold` the more connections: with none left each of them. 0: none.
fn one_in(threshold: u32, free: u64) -> u32 {
    let missing = u64::from(threshold).saturating_sub(free);
    u64::from(threshold).checked_div(missing).and_then(|one_in| one_in.try_into().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped_of_100(sysctls: Sysctls, free: u64) -> usize {
        let mut shed = Shed::default();
        (0..100).filter(|_| shed.drops(&sysctls, free)).count()
    }

    #[test]
    fn one_in_am_droprate_is_dropped_in_mode_3_and_none_in_mode_0() {
        for (drop_packet, am_droprate, expected) in
            [(0, 10, 0), (3, 10, 10), (3, 1, 100), (3, 3, 33), (3, 0, 0)]
        {
            let sysctls = Sysctls { drop_packet, am_droprate, ..Sysctls::default() };
            assert_eq!(dropped_of_100(sysctls, 0), expected, "mode {drop_packet}, one in {am_droprate}");
        }
    }

    #[test]
    fn modes_1_and_2_drop_the_more_the_fewer_places_are_left_below_the_threshold() {
        for drop_packet in [1, 2] {
            let sysctls = Sysctls { drop_packet, amemthresh: 1000, ..Sysctls::default() };
            let dropped = [1001, 1000, 999, 990, 900, 500, 1, 0].map(|free| dropped_of_100(sysctls, free));
            assert_eq!(dropped, [0, 0, 0, 1, 10, 50, 100, 100], "mode {drop_packet}");
        }
        let sysctls = Sysctls { drop_packet: 1, amemthresh: 0, ..Sysctls::default() };
        assert_eq!(dropped_of_100(sysctls, 0), 0, "no threshold");
    }
}
